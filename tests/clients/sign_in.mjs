// A person signing in, by openid-client: code flow with PKCE, the sign-in page's form filled in as a browser would.
import * as oidc from "openid-client";
import { expect, need } from "./judge.mjs";

// The first form of a page that asks for a password, with its hidden fields.
function form(page, at) {
  for (const [whole, open] of page.matchAll(/<form([^>]*)>[\s\S]*?<\/form>/g)) {
    if (!/type="password"/.test(whole)) continue;
    const fields = new URLSearchParams();
    for (const [, input] of whole.matchAll(/<input([^>]*)>/g)) {
      const read = (name) => new RegExp(`\\b${name}="([^"]*)"`).exec(input)?.[1];
      if (read("name") === undefined) continue;
      const value = (read("value") ?? "").replaceAll("&quot;", '"').replaceAll("&#34;", '"').replaceAll("&#38;", "&").replaceAll("&amp;", "&");
      fields.set(read("name"), value);
    }
    return { fields, action: new URL(/action="([^"]*)"/.exec(open)?.[1] ?? at, at) };
  }
  return undefined;
}

// A browser's cookies of one site, no more than that.
export class Browser {
  #cookies = new Map();

  async open(url, body) {
    const headers = { cookie: [...this.#cookies].map(([name, value]) => `${name}=${value}`).join("; ") };
    if (body) Object.assign(headers, { origin: new URL(url).origin, "sec-fetch-site": "same-origin" });
    const response = await fetch(url, { method: body ? "POST" : "GET", body, headers, redirect: "manual" });
    for (const line of response.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line);
      if (/max-age=0/i.test(line)) this.#cookies.delete(name);
      else this.#cookies.set(name, value);
    }
    return response;
  }

  // Follows redirects within the site; stops at one that leaves for `until`.
  async follow(url, body, until) {
    for (let hops = 0; hops < 10; hops++) {
      const response = await this.open(url, body);
      const location = response.headers.get("location");
      if (!location) return { page: await response.text(), at: url, status: response.status };
      url = new URL(location, url).href;
      body = undefined;
      if (until && url.startsWith(until)) return { left: new URL(url) };
    }
    throw new Error("ten redirects and no end");
  }
}

// Signs in; gives the client's configuration, the tokens, and the browser that is signed in now.
// JUDGE_LINK, the link of a first sign-in, sets the password before.
export async function signIn() {
  const [issuer, id, secret, base, email, password] =
    need("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "PUBLIC_URL", "JUDGE_EMAIL", "JUDGE_PASSWORD");
  const redirect = new URL(process.env.JUDGE_REDIRECT ?? "/callback", base).href;
  const config = await oidc.discovery(new URL(issuer), id, secret);
  const browser = new Browser();

  if (process.env.JUDGE_LINK) {
    const first = await browser.follow(process.env.JUDGE_LINK);
    const found = form(first.page, first.at);
    // A link works once; when it has been used, the password is known already.
    if (found) {
      found.fields.set("password", password);
      found.fields.set("again", password);
      const set = await browser.follow(found.action.href, found.fields);
      expect(set.status === 200, `setting the first password answers ${set.status}`);
    }
  }

  const verifier = oidc.randomPKCECodeVerifier();
  const state = oidc.randomState();
  const nonce = oidc.randomNonce();
  const authorize = oidc.buildAuthorizationUrl(config, {
    redirect_uri: redirect,
    scope: process.env.JUDGE_SCOPE ?? "openid profile email groups offline_access",
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    state,
    nonce,
  });
  let seen = await new Browser().follow(authorize.href, undefined, redirect);
  expect(!seen.left, "somebody who is not signed in got a code");
  const fresh = new Browser();
  seen = await fresh.follow(authorize.href, undefined, redirect);
  const found = form(seen.page, seen.at);
  expect(found, "there is no sign-in form");
  found.fields.set("email", email);
  found.fields.set("password", `${password}-wrong`);
  const refused = await fresh.follow(found.action.href, found.fields, redirect);
  expect(!refused.left, "a wrong password got a code");

  const again = form(refused.page, refused.at) ?? found;
  again.fields.set("email", email);
  again.fields.set("password", password);
  const signed = await fresh.follow(again.action.href, again.fields, redirect);
  expect(signed.left, `the right password was refused with ${signed.status}`);
  const checks = { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce };
  const tokens = await oidc.authorizationCodeGrant(config, signed.left, checks);
  return { config, tokens, browser: fresh, callback: signed.left, checks };
}
