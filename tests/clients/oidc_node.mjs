// openid-client against identity: code flow with PKCE, the claims, userinfo, refresh, and what must be refused.
import * as oidc from "openid-client";
import { done, expect } from "./judge.mjs";
import { signIn } from "./sign_in.mjs";

const { config, tokens, callback, checks } = await signIn();
const claims = tokens.claims();
expect(claims?.sub, "the ID token has no subject");
const person = await oidc.fetchUserInfo(config, tokens.access_token, claims.sub);
expect(person.email === process.env.JUDGE_EMAIL, "userinfo knows another e-mail");

let twice = false;
try {
  await oidc.authorizationCodeGrant(config, callback, checks);
  twice = true;
} catch {
  // A code works once.
}
expect(!twice, "a code was taken twice");

const did = ["sign-in form", "PKCE", "ID token", "userinfo", "a code works once"];
if (tokens.refresh_token) {
  // Taking the code twice may have ended this sign-in's tokens, as RFC 6749 advises; a fresh sign-in refreshes.
  const again = await signIn();
  const renewed = await oidc.refreshTokenGrant(again.config, again.tokens.refresh_token);
  expect(renewed.access_token !== again.tokens.access_token, "a refreshed token is the old one");
  did.push("refresh");
}
done(did.join(", "));
