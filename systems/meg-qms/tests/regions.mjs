// A walk from the centre to a region in a real browser: somebody is added in the region, their record goes up, they sign in at the
// centre and land in their region, and what they see there is answered by the region alone.
//
//   stamp up systems/meg-qms --stamp eu   (and uk)
//   stamp user add systems/meg-qms --stamp uk ada@example.com --group admin       # prints a link
//   stamp user add systems/meg-qms --stamp eu ann@example.com --group staff       # prints a link
//   npm install --no-save puppeteer-core
//   node systems/meg-qms/tests/regions.mjs https://EU_EDGE https://UK_EDGE LINK_OF_ADA LINK_OF_ANN FOLDER_FOR_PICTURES
import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { join } from "node:path";

const puppeteer = createRequire(join(process.cwd(), "x.js"))("puppeteer-core");
const [eu, uk, ada_link, ann_link, pictures] = process.argv.slice(2);
assert(pictures, "usage: node regions.mjs https://EU https://UK LINK_OF_ADA LINK_OF_ANN FOLDER");
mkdirSync(pictures, { recursive: true });
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  acceptInsecureCerts: true,
  args: ["--no-sandbox"],
});

/** A browser of somebody new, with a password set by their link. */
async function invited(link) {
  const page = await (await browser.createBrowserContext()).newPage();
  await page.setViewport({ width: 1200, height: 700 });
  const password = randomUUID();
  await page.goto(link);
  await page.type("[name=password]", password);
  await page.type("[name=again]", password);
  await Promise.all([page.waitForNavigation(), page.click("main button, form button")]);
  return { page, password };
}

async function sign_in(page, start, email, password) {
  await page.goto(start);
  if (await page.$("[name=password]")) {
    await page.type("[name=email]", email);
    await page.type("[name=password]", password);
    await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  }
}

try {
  const ada = await invited(ada_link);
  await sign_in(ada.page, `${uk}/sign-in/here?return=%2Fadmin%2Fpeople`, "ada@example.com", ada.password);
  await ada.page.goto(`${uk}/admin/people`);
  assert.equal(new URL(ada.page.url()).origin, new URL(uk).origin);
  if (!(await ada.page.content()).includes("ann@example.com")) {
    await ada.page.type("form.card [name=email]", "ann@example.com");
    await ada.page.type("form.card [name=name]", "Ann Archer");
    await ada.page.click("form.card [name=role][value=staff]");
    await Promise.all([ada.page.waitForNavigation(), ada.page.click("form.card button.main")]);
  }
  for (let n = 0; n < 60 && !(await ada.page.content()).includes("The centre has every record"); n++) {
    await new Promise((r) => setTimeout(r, 500));
    await ada.page.reload();
  }
  assert((await ada.page.content()).includes("The centre has every record"), "the record went up");
  await ada.page.screenshot({ path: join(pictures, "meg-people.png") });

  const ann = await invited(ann_link);
  const asked = [];
  await sign_in(ann.page, eu, "ann@example.com", ann.password);
  await ann.page.waitForFunction((origin) => location.origin === origin, {}, new URL(uk).origin);
  assert.equal(await ann.page.$eval("h1", (h) => h.textContent), "Dashboard", "she lands in her region");
  assert((await ann.page.content()).includes("Region uk"));
  // Pictures within the style sheet are data of the page itself.
  ann.page.on("request", (request) => request.url().startsWith("http") && asked.push(new URL(request.url()).origin));
  for (const path of ["/audit", "/submissions", "/"]) await ann.page.goto(uk + path);
  assert(asked.every((origin) => origin === new URL(uk).origin), `everything is asked of the region: ${asked}`);
  const ticket = await ann.page.goto(`${uk}/enter?ticket=forged`);
  assert.equal(ticket.status(), 400, "a forged ticket opens nothing");
  process.stdout.write(`walked: added in uk, known at the centre, signed in at ${eu}, landed at ${uk}\n`);
} finally {
  await browser.close();
}
