// A walk through a site of MEG QMS in a real browser, with pictures: sign-in at the site's directory, an audit with a photo and a
// recording, the dashboard, a plan and the letter about it, the formulary, a public report.
//
//   stamp up systems/meg-qms --stamp kfmmc
//   npm install --no-save puppeteer-core            # in any folder; NODE_PATH or that folder as the current one
//   node systems/meg-qms/tests/walk.mjs https://EDGE FOLDER_FOR_PICTURES
//
// CHROMIUM names the browser (/usr/bin/chromium). It fails with the first thing that is not as it should be.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { deflateSync, crc32 } from "node:zlib";

const puppeteer = createRequire(join(process.cwd(), "x.js"))("puppeteer-core");
const [edge, pictures] = process.argv.slice(2);
assert(edge && pictures, "usage: node walk.mjs https://EDGE FOLDER");
mkdirSync(pictures, { recursive: true });

/** A photo: a PNG that a browser can show, stripes in two colours. */
function png(width, height) {
  const rows = Buffer.alloc((width * 3 + 1) * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = y * (width * 3 + 1) + 1 + x * 3;
      const light = (Math.floor(x / 24) + Math.floor(y / 24)) % 2;
      rows.set(light ? [229, 236, 246] : [126, 153, 190], at);
    }
  }
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const out = Buffer.alloc(body.length + 8);
    out.writeUInt32BE(data.length, 0);
    body.copy(out, 4);
    out.writeUInt32BE(crc32(body), body.length + 4);
    return out;
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const parts = [chunk("IHDR", head), chunk("IDAT", deflateSync(rows)), chunk("IEND", Buffer.alloc(0))];
  return Buffer.concat([Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]), ...parts]);
}

/** A recording: half a second of a tone, as a WAV file. */
function wav() {
  const [rate, samples] = [8000, 4000];
  const out = Buffer.alloc(44 + samples * 2);
  out.write("RIFF", 0);
  out.writeUInt32LE(36 + samples * 2, 4);
  out.write("WAVEfmt ", 8);
  out.writeUInt32LE(16, 16);
  out.writeUInt16LE(1, 20);
  out.writeUInt16LE(1, 22);
  out.writeUInt32LE(rate, 24);
  out.writeUInt32LE(rate * 2, 28);
  out.writeUInt16LE(2, 32);
  out.writeUInt16LE(16, 34);
  out.write("data", 36);
  out.writeUInt32LE(samples * 2, 40);
  for (let n = 0; n < samples; n++) out.writeInt16LE(Math.round(8000 * Math.sin(n / 4)), 44 + n * 2);
  return out;
}

const [photo, sound] = [join(tmpdir(), "walk-photo.png"), join(tmpdir(), "walk-sound.wav")];
writeFileSync(photo, png(480, 300));
writeFileSync(sound, wav());

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // The stamp's authority is its own; this browser is thrown away.
  acceptInsecureCerts: true,
  args: ["--no-sandbox"],
});
const faults = [];

async function person(name) {
  const page = await (await browser.createBrowserContext()).newPage();
  await page.setViewport({ width: 1200, height: 820 });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("console", (line) => line.type() === "error" && faults.push(line.text()));
  await page.goto(`${edge}/sign-in`);
  await page.type("[name=name]", name);
  await page.type("[name=password]", `stand-in ${name}`);
  await Promise.all([page.waitForNavigation(), page.click("button.main")]);
  assert.equal(await page.$eval("h1", (h) => h.textContent), "Dashboard", `${name} is signed in`);
  return page;
}

const says = async (page, text) => assert((await page.content()).includes(text), `the page says: ${text}`);
const picture = (page, name) => page.screenshot({ path: join(pictures, `${name}.png`) });
const press = (page, selector) => Promise.all([page.waitForNavigation(), page.click(selector)]);

try {
  const auditor = await person("auditor");
  // Some audits before, so that there is something to see over time: by the API, as an app sends them.
  const done = await auditor.evaluate(async () => {
    const csrf = document.querySelector("meta[name=csrf]").content;
    const feed = await (await fetch("/api/v1/feed")).json();
    let taken = 0;
    for (let week = 0; week < 10; week++) {
      for (const [at, form] of feed.forms.entries()) {
        const day = new Date(Date.now() - week * 7 * 86400e3).toISOString().slice(0, 10);
        const answers = form.questions.map((q, n) => {
          const bad = (week * 3 + n * 5 + at) % 7 < (week > 5 ? 3 : 1);
          const value = { "yes-no": bad && !q.isCritical ? "no" : "yes", number: bad ? "9" : "5", choice: q.choices[bad ? 1 : 0] }[q.kind] ?? "";
          return { questionId: q.id, value };
        });
        const ward = feed.wards[(week + at * 2) % feed.wards.length].code;
        const body = JSON.stringify({ id: crypto.randomUUID(), formId: form.id, formVersion: form.version, ward, auditedOn: day, answers });
        const headers = { "content-type": "application/json", "x-csrf-token": csrf };
        taken += (await fetch("/api/v1/submissions", { method: "POST", headers, body })).status === 201;
      }
    }
    return taken;
  });
  assert.equal(done, 20, "twenty audits were taken");

  // An audit by hand, with a photo, a recording, and a critical failure.
  await auditor.goto(`${edge}/audit`);
  await auditor.evaluate(() => [...document.querySelectorAll(".cards a")].find((a) => a.textContent.includes("Hand hygiene")).click());
  await auditor.waitForSelector("form.audit");
  await auditor.select("[name=ward]", "ICU");
  await auditor.$$eval(".questions li", (all) =>
    all.forEach((li, n) => (li.querySelector(n === 0 ? "input[value=no]" : "input[type=radio]") ?? { click() {} }).click()),
  );
  await auditor.$$eval("details", (all) => (all[0].open = true));
  const send = async (kind, file) => {
    await (await auditor.$(`.send input[data-kind=${kind}]`)).uploadFile(file);
    await auditor.waitForFunction((k) => document.querySelector(`.send input[data-kind=${k}]`).closest(".send").textContent.includes("sent"), {}, kind);
  };
  await send("audit-photos", photo);
  await auditor.waitForSelector(".sent input[name^=m]");
  await send("audit-audio", sound);
  await auditor.waitForFunction(() => document.querySelectorAll(".sent input[name^=m]").length === 2);
  await picture(auditor, "meg-audit");
  await press(auditor, "form.audit button.main");
  await says(auditor, "<audio controls");
  await auditor.waitForFunction(() => [...document.images].every((i) => i.complete && i.naturalWidth > 0));
  await picture(auditor, "meg-submission");
  // The worker makes a plan of it.
  await auditor.goto(`${edge}/qips`);
  for (let n = 0; n < 60 && !(await auditor.content()).includes("critical failure"); n++) {
    await new Promise((r) => setTimeout(r, 500));
    await auditor.reload();
  }
  await says(auditor, "Hand hygiene: critical failure");
  await auditor.type("#new [name=title]", "Dispensers at every bed");
  await auditor.type("#new [name=description]", "Order and mount hand rub dispensers in intensive care.");
  await auditor.select("#new [name=ward]", "ICU");
  await auditor.$eval("#new [name=owner]", (s) => (s.value = [...s.options].find((o) => o.text.includes("Auditor")).value));
  await press(auditor, "#new button.main");
  await (await auditor.$(".send input[data-kind=qip-photos]")).uploadFile(photo);
  await auditor.waitForSelector("a.photo img");
  for (let n = 0; n < 60 && !(await auditor.content()).includes(">sent<"); n++) {
    await new Promise((r) => setTimeout(r, 500));
    await auditor.reload();
  }
  await says(auditor, ">sent<");
  await picture(auditor, "meg-plan");
  await auditor.goto(`${edge}/qips`);
  await picture(auditor, "meg-plans");
  await auditor.goto(`${edge}/`);
  await says(auditor, "<polyline");
  await picture(auditor, "meg-dashboard");
  await auditor.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
  await auditor.setViewport({ width: 390, height: 844, deviceScaleFactor: 2, isMobile: true });
  await auditor.reload();
  await picture(auditor, "meg-phone");
  const wide = await auditor.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert(wide <= 0, `nothing is wider than a phone, but ${wide} pixels are`);

  const admin = await person("admin");
  await admin.goto(`${edge}/formulary`);
  await says(admin, "Paracetamol");
  const report = await admin.evaluate(async () => {
    const csrf = document.querySelector("meta[name=csrf]").content;
    const forms = (await (await fetch("/api/v1/forms")).json()).items;
    const form = forms.find((f) => f.title === "Hand hygiene").id;
    const slug = `hand-hygiene-${Date.now()}`;
    const [lastDay, firstDay] = [0, 90].map((d) => new Date(Date.now() - d * 86400e3).toISOString().slice(0, 10));
    const body = JSON.stringify({ slug, title: "Hand hygiene in our hospital", intro: "How often hands are cleaned when they should be.", formId: form, firstDay, lastDay, isPublished: true });
    const answer = await fetch("/api/v1/reports", { method: "POST", headers: { "content-type": "application/json", "x-csrf-token": csrf }, body });
    return answer.status === 201 ? slug : `${answer.status}`;
  });
  const stranger = await (await browser.createBrowserContext()).newPage();
  await stranger.setViewport({ width: 1000, height: 900 });
  await stranger.goto(`${edge}/reports/${report}`);
  await says(stranger, "Hand hygiene in our hospital");
  assert(!(await stranger.content()).includes("Stand-in"), "a public report names nobody");
  await picture(stranger, "meg-report");
  await stranger.goto(`${edge}/submissions`);
  await says(stranger, "hospital account");
  assert.deepEqual(faults, [], "no page complains");
  process.stdout.write("walked: signed in by the directory, audited, planned, written to, published\n");
} finally {
  await browser.close();
}
