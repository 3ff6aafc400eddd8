// Moving in the grid by keyboard and adding up while typing. The page works without it.
"use strict";
(() => {
  const form = document.getElementById("grid");
  if (!form) return;
  const rows = [...form.querySelectorAll("tbody tr")].map((tr) => [...tr.cells].slice(1, -1).map((td) => td.querySelector("input:not([type=hidden])")));
  const at = (input) => {
    for (let r = 0; r < rows.length; r++) {
      const c = rows[r].indexOf(input);
      if (c >= 0) return [r, c];
    }
    return null;
  };
  const go = (r, c, dr, dc) => {
    do {
      r += dr;
      c += dc;
    } while (rows[r] && c >= 0 && c < rows[r].length && !rows[r][c]);
    const next = rows[r] && rows[r][c];
    if (next) {
      next.focus();
      next.select();
    }
    return Boolean(next);
  };
  const hours = (text) => {
    const t = text.trim().toLowerCase().replace(",", ".");
    const pair = t.match(/^(\d{1,2})[:h](\d{0,2})$/);
    const n = pair ? Number(pair[1]) + Number(pair[2] || 0) / 60 : Number(t || 0);
    return Number.isFinite(n) && n > 0 ? Math.round(n * 4) / 4 : 0;
  };
  const fixed = (td) => hours(td.textContent.replace(/[^\d.]/g, ""));
  const value = (td) => {
    const input = td.querySelector("input:not([type=hidden])");
    return input ? hours(input.value) : fixed(td);
  };
  const body = [...form.querySelectorAll("tbody tr")];
  const foot = form.querySelector("tfoot tr");
  const total = document.getElementById("total");
  const add = () => {
    const days = [];
    let all = 0;
    for (const tr of body) {
      const cells = [...tr.cells].slice(1, -1);
      let sum = 0;
      cells.forEach((td, i) => {
        const v = value(td);
        sum += v;
        days[i] = (days[i] || 0) + v;
      });
      all += sum;
      tr.cells[tr.cells.length - 1].textContent = sum ? String(sum) : "";
    }
    days.forEach((d, i) => {
      const td = foot.cells[i + 1];
      td.textContent = d ? String(d) : "";
      td.classList.toggle("bad", d > 24);
    });
    foot.cells[foot.cells.length - 1].textContent = String(all);
    if (total) total.textContent = String(all);
  };
  let changed = false;
  form.addEventListener("input", () => {
    changed = true;
    add();
  });
  form.addEventListener("focusin", (event) => {
    if (event.target.matches("td input:not([type=hidden])")) event.target.select();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
      return;
    }
    const place = at(event.target);
    if (!place || event.altKey || event.ctrlKey || event.metaKey) return;
    const [r, c] = place;
    const input = event.target;
    const whole = input.selectionStart === 0 && input.selectionEnd === input.value.length;
    const moves = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      Enter: [event.shiftKey ? -1 : 1, 0],
      ArrowLeft: whole || input.selectionEnd === 0 ? [0, -1] : null,
      ArrowRight: whole || input.selectionStart === input.value.length ? [0, 1] : null,
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    if (!go(r, c, move[0], move[1]) && event.key === "Enter") {
      // Below the last row: back to the top, one day on.
      const first = rows.findIndex((row) => row[c + 1]);
      if (first >= 0) {
        rows[first][c + 1].focus();
        rows[first][c + 1].select();
      }
    }
  });
  form.addEventListener("submit", () => {
    changed = false;
  });
  addEventListener("beforeunload", (event) => {
    if (changed) event.preventDefault();
  });
  const fault = document.querySelector("[aria-invalid=true]");
  if (fault) fault.focus();
  add();
})();
