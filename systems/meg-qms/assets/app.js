// Sends photos and recordings before the form that names them. Everything else works without this file.
"use strict";
const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

async function said(answer) {
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const why = (body.errors ?? []).map((e) => e.message).join(" ") || body.detail || `The server answered ${answer.status}.`;
  throw new Error(why);
}

async function send(input) {
  const box = input.closest(".send");
  const line = document.createElement("li");
  const file = input.files[0];
  if (!file) return;
  line.textContent = `${file.name}: sending…`;
  box.querySelector(".sent").append(line);
  input.value = "";
  try {
    const kind = input.dataset.kind;
    const headers = { "content-type": file.type || "application/octet-stream", "x-csrf-token": csrf };
    const kept = await said(await fetch(`/api/v1/media?kind=${kind}`, { method: "POST", headers, body: file }));
    if (box.dataset.qip) {
      const body = JSON.stringify({ address: kept.address });
      const json = { "content-type": "application/json", "x-csrf-token": csrf };
      await said(await fetch(`/api/v1/qips/${box.dataset.qip}/media`, { method: "POST", headers: json, body }));
      location.reload();
      return;
    }
    const named = document.createElement("input");
    named.type = "hidden";
    named.name = box.dataset.send;
    named.value = kept.address;
    line.textContent = `${file.name}: ${Math.ceil(kept.bytes / 1024)} KiB sent`;
    line.append(named);
  } catch (error) {
    line.textContent = `${file.name}: ${error.message}`;
    line.className = "fault";
  }
}

for (const input of document.querySelectorAll(".send input[type=file]")) {
  input.addEventListener("change", () => send(input));
}
