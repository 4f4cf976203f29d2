"use strict";
(() => {
  const data = JSON.parse(document.getElementById("timeline-data").textContent);
  const canvas = document.getElementById("timeline"), tip = document.getElementById("tip");
  const pen = canvas.getContext("2d");
  const name = i => data.names[i];
  // What a call is, by the kernel it runs; each kind has a colour of the page's palette.
  const KINDS = [
    ["products", "--band-1", /gemm|^matmul/], ["attention", "--ink-5", /attention|rope/],
    ["loss", "--ink-6", /cross_entropy|nll/], ["norms", "--band-3", /norm/],
    ["optimizer", "--band-2", /adamw|lion|muon|squares/], ["everything else", "--band-0", /./],
  ];
  const kind = title => KINDS.findIndex(k => k[2].test(title));
  const bars = [];
  const add = (lane, start, length, label, colour, text) => bars.push({ lane, start, end: start + length, label, colour, text });
  const time = us => us >= 1000 ? (us / 1000).toFixed(us >= 1e5 ? 0 : 2) + " ms" : us.toFixed(us >= 100 ? 0 : 1) + " µs";
  for (const [n, depth, start, length] of data.phases)
    add(Math.min(depth, 1), start, length, name(n), depth ? "--ink-4" : "--ink-2", `${name(n)}\n${time(length)}`);
  let open = null;
  for (const [n, part, pass, start, length, gflop, mb, share] of data.calls) {
    const title = name(n), where = name(part), what = kind(title);
    const seconds = length * 1e-6;
    add(3, start, length, title, KINDS[what][1],
      `${title}\n${where || "no part"}, ${name(pass)}\n${time(length)}, ${(share * 100).toFixed(share < 0.1 ? 1 : 0)} % of the roofline\n` +
      `${gflop} GFLOP (${(gflop / seconds).toFixed(1)} GFLOP/s)\n${mb} MB (${(mb / 1000 / seconds).toFixed(1)} GB/s)`);
    // Neighbours of one block are one bar above.
    const block = where.replace(/^(blocks\.\d+).*/, "$1"), key = block + name(pass);
    if (open && open.key === key && start - open.end < 2000) open.end = start + length;
    else { open = { key, block, pass: name(pass), start, end: start + length }; (data.blocks ??= []).push(open); }
  }
  for (const b of data.blocks ?? [])
    if (b.block) add(2, b.start, b.end - b.start, b.block, "--ink-2", `${b.block}, ${b.pass}\n${time(b.end - b.start)}`);
  const lanes = [[], [], [], []];
  for (const b of bars) lanes[b.lane].push(b);
  for (const lane of lanes) lane.sort((a, b) => a.start - b.start);
  const first = Math.min(...bars.map(b => b.start)), last = Math.max(...bars.map(b => b.end));
  const whole = bars.length ? [first, last] : [0, 1];
  const steps = lanes[0].filter(b => b.label === "step").sort((a, b) => (a.end - a.start) - (b.end - b.start));
  const one = steps.length ? steps[Math.floor(steps.length / 2)] : null;
  let view = one ? [one.start, one.end] : [...whole];

  const TOP = 26, HEIGHTS = [34, 34, 34, 84], GAP = 6;
  const top = lane => TOP + HEIGHTS.slice(0, lane).reduce((a, b) => a + b + GAP, 0);
  const size = () => canvas.getBoundingClientRect();
  let colours = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    for (const c of ["--ink", "--soft", "--line", "--card", "--ink-2", "--ink-4", ...KINDS.map(k => k[1])]) colours[c] = style.getPropertyValue(c).trim();
  };
  // The first bar of a lane that ends after t.
  const from = (lane, t) => { let a = 0, b = lane.length; while (a < b) { const m = (a + b) >> 1; lane[m].end < t ? a = m + 1 : b = m; } return a; };
  const draw = () => {
    const { width, height } = size(), ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio; canvas.height = height * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const scale = width / (view[1] - view[0]), x = t => (t - view[0]) * scale;
    pen.font = "12px system-ui, sans-serif"; pen.textBaseline = "middle";
    const raw = (view[1] - view[0]) / 8, power = 10 ** Math.floor(Math.log10(raw));
    const tick = power * [1, 2, 5, 10].find(f => f * power >= raw);
    for (let t = Math.ceil((view[0] - first) / tick) * tick; t + first <= view[1]; t += tick) {
      const at = x(t + first);
      pen.fillStyle = colours["--line"]; pen.fillRect(at, 0, 1, height);
      pen.fillStyle = colours["--soft"]; pen.fillText(time(t), at + 4, 13);
    }
    lanes.forEach((lane, n) => {
      let edge = -1;
      for (let i = from(lane, view[0]); i < lane.length && lane[i].start < view[1]; i++) {
        const b = lane[i], left = Math.max(x(b.start), -1), right = Math.min(x(b.end), width + 1);
        // Many bars within one pixel are drawn once.
        if (right - left < 0.6 && Math.floor(left) === edge) continue;
        edge = Math.floor(left);
        const wide = Math.max(right - left - (right - left > 3 ? 1 : 0), 0.6);
        pen.fillStyle = colours[b.colour]; pen.fillRect(left, top(n), wide, HEIGHTS[n]);
        if (wide > 34) {
          pen.save(); pen.beginPath(); pen.rect(left, top(n), wide - 4, HEIGHTS[n]); pen.clip();
          pen.fillStyle = n === 3 ? "#fff" : colours["--ink"];
          pen.fillText(b.label, left + 5, top(n) + HEIGHTS[n] / 2); pen.restore();
        }
      }
    });
  };
  const show = (a, b) => {
    const least = 1, most = whole[1] - whole[0];
    let length = Math.min(Math.max(b - a, least), most);
    a = Math.min(Math.max(a, whole[0]), whole[1] - length);
    view = [a, a + length]; draw();
  };
  const zoom = (factor, share) => {
    const at = view[0] + (view[1] - view[0]) * share, length = (view[1] - view[0]) * factor;
    show(at - length * share, at + length * (1 - share));
  };
  const actions = {
    all: () => show(...whole), step: () => one && show(one.start, one.end),
    in: () => zoom(0.5, 0.5), out: () => zoom(2, 0.5),
  };
  document.querySelectorAll("[data-do]").forEach(b => b.addEventListener("click", () => actions[b.dataset.do]()));
  canvas.addEventListener("wheel", e => {
    e.preventDefault(); const { left, width } = size();
    if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) { const by = e.deltaX / width * (view[1] - view[0]); show(view[0] + by, view[1] + by); }
    else zoom(Math.exp(e.deltaY * 0.0015), (e.clientX - left) / width);
  }, { passive: false });
  canvas.addEventListener("dblclick", () => actions.all());
  canvas.addEventListener("keydown", e => {
    const by = (view[1] - view[0]) / 8;
    const act = { ArrowLeft: () => show(view[0] - by, view[1] - by), ArrowRight: () => show(view[0] + by, view[1] + by), "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.all }[e.key];
    if (act) { e.preventDefault(); act(); }
  });
  let held = null;
  canvas.addEventListener("pointerdown", e => { held = [e.clientX, ...view]; canvas.setPointerCapture(e.pointerId); canvas.classList.add("moving"); });
  const release = () => { held = null; canvas.classList.remove("moving"); };
  canvas.addEventListener("pointerup", release); canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointermove", e => {
    const box = size(), px = e.clientX - box.left, py = e.clientY - box.top;
    if (held) { const by = (held[0] - e.clientX) / box.width * (held[2] - held[1]); show(held[1] + by, held[2] + by); }
    const t = view[0] + px / box.width * (view[1] - view[0]), slack = 2 / box.width * (view[1] - view[0]);
    const n = lanes.findIndex((_, i) => py >= top(i) && py < top(i) + HEIGHTS[i]);
    let hit = null;
    if (n >= 0) for (let i = from(lanes[n], t - slack); i < lanes[n].length && lanes[n][i].start <= t + slack; i++) { hit = lanes[n][i]; if (hit.start <= t && t <= hit.end) break; }
    tip.hidden = !hit;
    if (hit) {
      tip.textContent = hit.text;
      tip.style.left = Math.min(px + 14, box.width - tip.offsetWidth - 6) + "px";
      tip.style.top = Math.min(py + 14, box.height - tip.offsetHeight - 6) + "px";
    }
  });
  const legend = document.getElementById("kinds");
  for (const [text, colour] of KINDS) {
    const item = document.createElement("li"), key = document.createElement("i");
    key.style.background = `var(${colour})`; item.append(key, text); legend.append(item);
  }
  const refresh = () => { readColours(); draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
  window.addEventListener("resize", draw);
  refresh();
})();
