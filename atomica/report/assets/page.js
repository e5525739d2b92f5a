"use strict";
(() => {
  const root = document.documentElement;

  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    document.dispatchEvent(new Event("themechange"));
  });
  // Paper is white. What is folded away is printed, too.
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    document.querySelectorAll("details").forEach((one) => (one.open = true));
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before;
    else delete root.dataset.theme;
  });

  // ------------------------------------------------------------------ charts: the nearest point's text

  for (const plot of document.querySelectorAll(".plot")) {
    const spots = JSON.parse(plot.querySelector(".spots").textContent);
    const svg = plot.querySelector("svg");
    if (!spots.length) continue;
    const order = spots.map((_, i) => i).sort((a, b) => spots[a][0] - spots[b][0] || spots[a][1] - spots[b][1]);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    plot.append(tip);
    const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("r", "5.5");
    ring.setAttribute("class", "spot");
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    let at = -1;

    const hide = () => {
      tip.hidden = true;
      ring.setAttribute("visibility", "hidden");
    };
    const show = (index) => {
      const [x, y, text] = spots[index];
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      ring.setAttribute("cx", x);
      ring.setAttribute("cy", y);
      ring.setAttribute("visibility", "visible");
      tip.textContent = text;
      tip.hidden = false;
      const left = x * scale + 12 + tip.offsetWidth > box.width ? x * scale - 12 - tip.offsetWidth : x * scale + 12;
      tip.style.left = Math.max(0, left) + "px";
      tip.style.top = Math.max(0, y * scale - tip.offsetHeight - 8) + "px";
      plot.dataset.at = String(index);
    };
    plot.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      let best = -1;
      let least = 30 * 30;
      for (let i = 0; i < spots.length; i++) {
        const distance = (spots[i][0] - x) ** 2 + (spots[i][1] - y) ** 2;
        if (distance < least) {
          least = distance;
          best = i;
        }
      }
      if (best < 0) hide();
      else show(best);
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      at = Math.min(order.length - 1, Math.max(0, at + step));
      show(order[at]);
    });
  }

  // ------------------------------------------------------------------ tables: sort, filter, pages, CSV

  const shown = (value) => {
    if (value === null) return "";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    if (Math.abs(value) >= 1e4) return value.toFixed(0).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
    return String(Number(value.toPrecision(4)));
  };
  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };

  for (const table of document.querySelectorAll(".table")) {
    const data = JSON.parse(table.querySelector("script").textContent);
    const body = table.querySelector("tbody");
    const heads = [...table.querySelectorAll("thead th")];
    const count = table.querySelector(".count");
    const back = table.querySelector(".back");
    const on = table.querySelector(".on");
    const input = table.querySelector("input");
    const size = 25;
    let rows = data.rows;
    let from = 0;
    let by = -1;
    let down = false;

    const draw = () => {
      from = Math.min(from, Math.max(0, Math.floor((rows.length - 1) / size) * size));
      body.replaceChildren(
        ...rows.slice(from, from + size).map((row) => {
          const line = document.createElement("tr");
          row.forEach((value, i) => {
            const cell = document.createElement("td");
            if (data.numeric[i]) cell.className = "num";
            cell.textContent = shown(value);
            line.append(cell);
          });
          if (data.pick) {
            line.className = "pick";
            line.tabIndex = 0;
            const choose = () =>
              document.dispatchEvent(new CustomEvent("pickrow", { detail: { viewer: data.pick, columns: data.columns, row } }));
            line.addEventListener("click", choose);
            line.addEventListener("keydown", (event) => event.key === "Enter" && choose());
          }
          return line;
        })
      );
      const last = Math.min(from + size, rows.length);
      count.textContent = rows.length ? `${from + 1}–${last} of ${rows.length}` : "no rows";
      back.disabled = from === 0;
      on.disabled = last >= rows.length;
    };
    const arrange = () => {
      const text = input.value.trim().toLowerCase();
      const bound = /^(.+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+(?:e-?\d+)?)$/.exec(text);
      const column = bound ? data.columns.findIndex((name) => name.toLowerCase() === bound[1]) : -1;
      rows = data.rows.filter((row) => {
        if (column >= 0) {
          const [value, limit] = [row[column], Number(bound[3])];
          if (value === null) return false;
          return { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": value === limit }[bound[2]];
        }
        return !text || row.some((value) => value !== null && String(value).toLowerCase().includes(text));
      });
      if (by >= 0) {
        const compare = (a, b) =>
          typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        rows.sort((a, b) => {
          if (a[by] === null || b[by] === null) return (a[by] === null) - (b[by] === null);
          return down ? compare(b[by], a[by]) : compare(a[by], b[by]);
        });
      }
      draw();
    };
    heads.forEach((head, i) =>
      head.querySelector("button").addEventListener("click", () => {
        down = by === i ? !down : data.numeric[i];
        by = i;
        from = 0;
        heads.forEach((one, k) => one.setAttribute("aria-sort", k !== i ? "none" : down ? "descending" : "ascending"));
        arrange();
      })
    );
    input.addEventListener("input", () => {
      from = 0;
      arrange();
    });
    back.addEventListener("click", () => {
      from -= size;
      draw();
    });
    on.addEventListener("click", () => {
      from += size;
      draw();
    });
    table.querySelector(".csv").addEventListener("click", () => {
      const lines = [data.columns, ...rows].map((row) => row.map(quoted).join(","));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv;charset=utf-8" }));
      link.download = data.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    draw();
  }
})();
