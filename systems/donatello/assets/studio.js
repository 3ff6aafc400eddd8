// Shows a generation's progress as it happens; the page is complete without it.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const now = document.getElementById("now"), steps = document.getElementById("steps");
  const say = (e) => {
    const d = e.detail || {};
    switch (e.event) {
      case "generation.queued": return `Queued; ${d.reserved_aud} AUD reserved`;
      case "generation.started": return "A worker took it";
      case "generation.chosen": return `Chosen: ${d.model} (${d.score} points)`;
      case "generation.calling": return `Calling ${d.model}, attempt ${d.attempt} of ${d.of}`;
      case "generation.failed-attempt": return `${d.model}: ${d.why}. Trying again in ${d.in_seconds} s`;
      case "generation.fallback": return `${d.model}: ${d.why}. Falling back to ${d.next} in ${d.in_seconds} s`;
      case "generation.skipped": return `${d.model} skipped: ${d.why}`;
      case "generation.waiting": return `Waiting: ${d.why}`;
      case "generation.stored": return "Image checked, marked and stored";
      default: return e.event;
    }
  };
  const ended = ["generation.completed", "generation.failed", "generation.cancelled"];
  let pause = 500;
  const open = () => {
    const url = new URL(`/api/v1/generations/${live.dataset.id}/events`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    let first = true;
    socket.onmessage = (message) => {
      const event = JSON.parse(message.data);
      if (first) { steps.textContent = ""; first = false; pause = 500; }
      if (ended.includes(event.event)) { location.reload(); return; }
      const text = say(event), line = document.createElement("li"), time = document.createElement("time");
      time.textContent = `${(event.at_ms / 1000).toFixed(1)} s`;
      line.append(time, " " + text);
      steps.append(line);
      now.textContent = text;
    };
    socket.onclose = () => { setTimeout(open, pause); pause = Math.min(pause * 2, 15000); };
  };
  open();
})();
