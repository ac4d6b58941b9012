// The page of one cluster: shows what /events tells, and keeps the history of the last minutes itself.
"use strict";

const SPAN = 300; // Seconds of history.
const opened = Date.now() / 1000;
// What a line shows, in seconds: what there is of the history, so that it is not empty in the beginning.
const shownSpan = (now) => Math.min(SPAN, Math.max(60, now - opened));
const MOST_EVENTS = 100;
// The palette of Okabe and Ito, which people with any kind of colour blindness can tell apart. From the
// eighth seat on the same colours come again with stripes, and then with dots; numbers stand beside all.
const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8C7AE6"];
const SVG = "http://www.w3.org/2000/svg";

const $ = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
};
const shape = (name, attributes = {}, ...children) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };

// Numbers as text.

const count = (n) => n == null ? "–" : n.toLocaleString("en");
const rate = (n) => n == null ? "–" : n >= 100 ? count(Math.round(n)) : n.toFixed(1);
const percent = (n) => n == null ? "–" : `${n.toFixed(n < 10 ? 1 : 0)} %`;
const bytes = (n) => {
  if (n == null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (n >= 1024 && place < units.length - 1) { n /= 1024; place += 1; }
  return `${n.toFixed(place > 0 && n < 10 ? 1 : 0)} ${units[place]}`;
};
const time = (seconds) => {
  if (seconds == null) return "–";
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
};
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// History.

class Series {
  constructor() { this.points = []; }
  add(at, value) {
    const last = this.points.at(-1);
    if (last && at - last[0] < 0.9) last[1] = value;
    else this.points.push([at, value]);
    while (this.points.length && at - this.points[0][0] > SPAN) this.points.shift();
  }
  most() { return this.points.reduce((most, [, value]) => Math.max(most, value ?? 0), 0); }
}

// What grows, as a rate: over a second at least, since a status may follow another one at once.
class Growth {
  constructor() { this.samples = []; this.rate = null; }
  add(at, total) {
    if (total == null) { this.samples = []; this.rate = null; return null; }
    const last = this.samples.at(-1);
    if (last && total < last[1]) this.samples = [];
    this.samples.push([at, total]);
    while (this.samples.length > 2 && at - this.samples[1][0] >= 0.9) this.samples.shift();
    const [since, before] = this.samples[0];
    if (at - since >= 0.9) this.rate = (total - before) / (at - since);
    return this.rate;
  }
}

const drawLine = (svg, series, most, now) => {
  const [width, height, span] = [100, 24, shownSpan(now)];
  const y = (value) => height - 1 - (most > 0 ? value / most : 0) * (height - 2);
  const known = series.points.filter(([, value]) => value != null);
  const points = known.map(([at, value]) => `${(width - (now - at) / span * width).toFixed(2)},${y(value).toFixed(2)}`);
  if (!svg.firstChild) {
    svg.append(shape("path", { class: "area" }), shape("path", { class: "path" }));
  }
  const line = points.length ? `M${points.join("L")}` : "";
  const first = known.length ? (width - (now - known[0][0]) / span * width).toFixed(2) : 0;
  svg.children[0].setAttribute("d", line && `${line}L${width},${height}L${first},${height}Z`);
  svg.children[1].setAttribute("d", line);
};
const newLine = () => shape("svg", { class: "line", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });

// Colours of seats.

const fillOf = (seat) => {
  const round = Math.floor(seat / COLOURS.length) % 3;
  return round === 0 ? COLOURS[seat % COLOURS.length] : `url(#seat-${seat % COLOURS.length}-${round})`;
};
const patterns = () => {
  const all = shape("defs");
  COLOURS.forEach((colour, place) => {
    const base = () => shape("rect", { width: 6, height: 6, fill: colour });
    all.append(
      shape("pattern", { id: `seat-${place}-1`, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        base(), shape("rect", { width: 2, height: 6, fill: "#fff", opacity: .75 })),
      shape("pattern", { id: `seat-${place}-2`, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
        base(), shape("circle", { cx: 3, cy: 3, r: 1.5, fill: "#fff", opacity: .85 })));
  });
  all.append(shape("pattern", { id: "vacant", class: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    shape("rect", { width: 5, height: 5 }), shape("path", { d: "M0 0V5" })));
  return all;
};
const chip = (seat) => shape("svg", { class: "chip", viewBox: "0 0 18 18", "aria-hidden": "true" },
  shape("rect", { width: 18, height: 18, fill: fillOf(seat) }));

// The state of the page.

let status = null;      // The last status.
let table = null;       // The last slots.json.
let picked = null;      // The seat whose slots are shown.
let explained = null;   // The last answer of /explain.
const totals = [
  { name: "New connections / s", series: new Series(), show: rate },
  { name: "Established connections", series: new Series(), show: count },
  { name: "Processor of all workers", series: new Series(), show: percent },
  { name: "Memory of all workers", series: new Series(), show: bytes },
];
const seats = new Map();    // By seat: the growth of its connections, and its series.
const workers = new Map();  // By worker: its processor time, and the most connections it drained from.

const keyOf = (worker) => `${worker.seat}/${worker.generation}/${worker.pid ?? "-"}`;
const isDraining = (worker) => worker.state === "retired" || worker.state === "dying";

const take = (next) => {
  const now = Date.now() / 1000;
  const swapped = !status || ["generation", "serving", "slots"].some((key) => status[key] !== next[key])
    || shares(status) !== shares(next);
  status = next;
  remember(now);
  show(now);
  if (swapped) loadSlots();
};
const shares = (of) => of.workers.map((worker) => `${worker.seat}:${worker.slots}`).join();

const remember = (now) => {
  const sums = { rate: null, connections: null, processor: null, memory: null };
  const add = (name, value) => { if (value != null) sums[name] = (sums[name] ?? 0) + value; };
  const known = new Set();
  for (const worker of status.workers) {
    const key = keyOf(worker);
    known.add(key);
    const own = workers.get(key) ?? { processor: new Growth(), most: 0 };
    workers.set(key, own);
    const used = own.processor.add(now, worker.processor);
    own.used = used == null ? null : used * 100;
    own.most = Math.max(own.most, worker.connections ?? 0);
    add("connections", worker.connections);
    add("processor", own.used);
    add("memory", worker.memory);
    if (worker.state === "live") {
      const seat = seats.get(worker.seat) ?? {
        growth: new Growth(), connections: new Series(), rate: new Series(), processor: new Series(), memory: new Series(),
      };
      seats.set(worker.seat, seat);
      const grown = seat.growth.add(now, worker.connections_total);
      seat.connections.add(now, worker.connections);
      seat.rate.add(now, grown);
      seat.processor.add(now, own.used);
      seat.memory.add(now, worker.memory);
      add("rate", grown);
    }
  }
  for (const key of workers.keys()) if (!known.has(key)) workers.delete(key);
  [sums.rate, sums.connections, sums.processor, sums.memory].forEach((sum, place) => totals[place].series.add(now, sum));
};

// Showing.

const show = (now) => {
  document.title = `${status.name} · generation ${status.generation} · ipcluster`;
  setText($("name"), status.name);
  setText($("generation"), String(status.generation));
  const live = status.workers.filter((worker) => worker.state === "live").length;
  setText($("facts"), [status.listeners.join(", "), `${plural(live, "live worker")}`,
    `${count(status.slots)} slots by ${status.partition}`, status.engine, `master ${status.pid}`].join(" · "));
  showNotices();
  showTotals(now);
  showWorkers(now);
  showDraining();
  showRing();
};

const showNotices = () => {
  const notices = [];
  if (status.serving === 0) notices.push(["bad", "No worker is in force: new connections are not served."]);
  const probation = status.probation;
  if (probation) {
    const left = Math.ceil(probation.seconds_left);
    notices.push(["", `Generation ${probation.generation} is on probation for ${left} s more: ` +
      `${plural(probation.failures, "failure")} so far; ${plural(probation.standby, "worker")} of generation ` +
      `${probation.before} ${probation.standby === 1 ? "is" : "are"} kept able to serve.`, probation]);
  }
  const trial = status.trial;
  if (trial) notices.push(["", `Generation ${trial.generation} is on trial: ${plural(trial.seats, "worker")} with ` +
    `${count(trial.slots)} of ${count(status.slots)} slots.`]);
  if (status.given_up.length) notices.push(["bad", `Given up for now, since too many workers failed: seat ${status.given_up.join(", ")}.`]);
  const full = status.conntrack;
  if (full && full.limit && full.entries > full.limit * .8) {
    notices.push(["bad", `Connection tracking is ${Math.floor(full.entries / full.limit * 100)} % full: at the limit the kernel drops new connections.`]);
  }
  if (status.foreign_chains.length) notices.push(["warn", `${plural(status.foreign_chains.length, "rule")} of others decide${status.foreign_chains.length === 1 ? "s" : ""} before those of this cluster.`]);
  if (status.orphans.length) notices.push(["warn", `${plural(status.orphans.length, "process", "processes")} may be left from an earlier master.`]);
  const box = $("notices");
  while (box.children.length > notices.length) box.lastChild.remove();
  notices.forEach(([kind, text, probation], place) => {
    let notice = box.children[place];
    if (!notice) { notice = element("div", {}, element("span")); box.append(notice); }
    notice.className = `notice ${kind}`;
    setText(notice.firstChild, text);
    let bar = notice.querySelector("progress");
    if (!probation) { bar?.remove(); return; }
    if (!bar) {
      bar = element("progress", { max: Math.max(probation.seconds_left, .1) });
      bar.setAttribute("aria-label", "probation");
      notice.append(bar);
    }
    bar.max = Math.max(bar.max, probation.seconds_left);
    bar.value = bar.max - probation.seconds_left;
  });
};

const showTotals = (now) => {
  const list = $("totals");
  totals.forEach((total, place) => {
    let box = list.children[place];
    if (!box) {
      box = element("div", {}, element("dt", { textContent: total.name }), element("dd"), newLine());
      list.append(box);
    }
    setText(box.children[1], total.show(total.series.points.at(-1)?.[1]));
    drawLine(box.children[2], total.series, total.series.most(), now);
  });
};

const stateOf = (worker) => {
  if (worker.standby) return ["standby", "◐ standby"];
  if (worker.state === "live" && worker.health === "silent") return ["silent", "! silent"];
  if (worker.leaving && worker.state === "live") return ["leaving", "◑ leaving"];
  return [worker.state, { live: "● live", starting: "◌ starting", retired: "▽ draining", dying: "✕ ending" }[worker.state] ?? worker.state];
};
const noteOf = (worker) => {
  if (worker.leaving && worker.state === "live") return `to be replaced: ${worker.leaving}`;
  if (worker.text) return worker.text;
  if (worker.state === "starting" && worker.pid == null) return "waits to be started";
  return "";
};

// A row for each item, in this order: those that are there already stay, so that focus and selection do.
const rows = (body, items, key, make) => {
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, place) => {
    const name = key(item);
    let row = before.get(name);
    before.delete(name);
    if (!row) { row = make(item); row.dataset.key = name; }
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
  });
  for (const row of before.values()) row.remove();
};
const cell = (label, ...children) => {
  const made = element("td", {}, ...children);
  if (label) made.dataset.label = label;
  return made;
};
const seatCell = (worker) => {
  const button = element("button", { type: "button" }, chip(worker.seat), element("span", { textContent: worker.seat }));
  button.setAttribute("aria-label", `seat ${worker.seat}: show its slots`);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => { picked = picked === worker.seat ? null : worker.seat; showPicked(); });
  const made = cell("", button);
  made.className = "seat";
  return made;
};
const stateCell = () => cell("", element("span"), element("span", { className: "note" }));
const fillState = (made, worker) => {
  const [kind, text] = stateOf(worker);
  made.children[0].className = `state ${kind}`;
  setText(made.children[0], text);
  setText(made.children[1], noteOf(worker));
};
const fillProcess = (made, worker) => {
  setText(made.children[0], worker.pid == null ? "–" : `pid ${worker.pid}`);
  setText(made.children[1], `generation ${worker.generation}${worker.pid == null ? "" : `, ${time(worker.uptime)}`}`);
};
const processCell = () => cell("Process", element("span", { className: "number" }), element("span", { className: "note" }));

const showWorkers = (now) => {
  const shown = status.workers.filter((worker) => !isDraining(worker));
  const measures = [
    ["Connections", "connections", (worker) => count(worker.connections)],
    ["New / s", "rate", (worker) => worker.state === "live" ? rate(seats.get(worker.seat)?.growth.rate) : "–"],
    ["Processor", "processor", (worker) => percent(workers.get(keyOf(worker))?.used)],
    ["Memory", "memory", (worker) => bytes(worker.memory)],
  ];
  const most = Object.fromEntries(measures.map(([, name]) =>
    [name, Math.max(0, ...[...seats.values()].map((seat) => seat[name].most()))]));
  const body = $("workers").tBodies[0];
  rows(body, shown, keyOf, (worker) => element("tr", {}, seatCell(worker), stateCell(), processCell(),
    ...measures.map(([label]) => cell(label, element("span", { className: "number" }), newLine()))));
  shown.forEach((worker, place) => {
    const row = body.children[place];
    Object.assign(row.dataset, { seat: worker.seat, state: worker.state, pid: worker.pid ?? "", generation: worker.generation });
    fillState(row.children[1], worker);
    fillProcess(row.children[2], worker);
    measures.forEach(([, name, text], index) => {
      const made = row.children[3 + index];
      setText(made.children[0], text(worker));
      const series = worker.state === "live" ? seats.get(worker.seat)?.[name] : null;
      drawLine(made.children[1], series ?? new Series(), most[name], now);
    });
  });
};

const showDraining = () => {
  const shown = status.workers.filter(isDraining);
  $("draining-section").hidden = shown.length === 0;
  const by = new Map();
  for (const worker of shown) {
    const sum = by.get(worker.generation) ?? { workers: 0, connections: 0 };
    sum.workers += 1;
    sum.connections += worker.connections ?? 0;
    by.set(worker.generation, sum);
  }
  setText($("draining-sum"), [...by].map(([generation, sum]) =>
    `Generation ${generation}: ${plural(sum.connections, "connection")} with ${plural(sum.workers, "worker")}`).join(" · "));
  const body = $("draining").tBodies[0];
  rows(body, shown, keyOf, (worker) => element("tr", {}, seatCell(worker), stateCell(), processCell(),
    cell("Connections left", element("span", { className: "number" }), element("meter", { min: 0 })),
    cell("For", element("span", { className: "number" })), cell("Memory", element("span", { className: "number" }))));
  shown.forEach((worker, place) => {
    const row = body.children[place];
    Object.assign(row.dataset, { seat: worker.seat, state: worker.state, pid: worker.pid ?? "", generation: worker.generation });
    fillState(row.children[1], worker);
    fillProcess(row.children[2], worker);
    setText(row.children[3].children[0], count(worker.connections));
    const meter = row.children[3].children[1];
    meter.max = Math.max(1, workers.get(keyOf(worker))?.most ?? 1);
    meter.value = worker.connections ?? 0;
    meter.setAttribute("aria-label", "connections left");
    setText(row.children[4].firstChild, time(worker.retired));
    setText(row.children[5].firstChild, bytes(worker.memory));
  });
};

// The ring of slots.

const loadSlots = async () => {
  try {
    const answer = await fetch("slots.json");
    if (answer.ok) { table = await answer.json(); drawRing(); showRing(); }
    if (explained) explain(explained.address);
  } catch { /* The next status tries again. */ table = null; }
};

const RADIUS = 92, HOLE = 62, MIDDLE = 100;
const point = (part, radius) => {
  const angle = part * 2 * Math.PI - Math.PI / 2;
  return `${(MIDDLE + radius * Math.cos(angle)).toFixed(3)} ${(MIDDLE + radius * Math.sin(angle)).toFixed(3)}`;
};
const arc = (from, to) => {
  // An arc over the whole circle would begin where it ends, which draws nothing.
  if (to - from > .999) return arc(from, from + (to - from) / 2) + arc(from + (to - from) / 2, to);
  const large = to - from > .5 ? 1 : 0;
  return `M${point(from, RADIUS)}A${RADIUS} ${RADIUS} 0 ${large} 1 ${point(to, RADIUS)}` +
    `L${point(to, HOLE)}A${HOLE} ${HOLE} 0 ${large} 0 ${point(from, HOLE)}Z`;
};

const drawRing = () => {
  const svg = shape("svg", { viewBox: "0 0 200 200", role: "img" }, shape("title"), patterns());
  const bySeat = new Map();
  let slot = 0;
  for (const [seat, length] of table.runs) {
    const [from, to] = [slot / table.slots, (slot + length) / table.slots];
    slot += length;
    const own = bySeat.get(seat) ?? { path: "", longest: 0, at: 0 };
    own.path += arc(from, to);
    if (to - from > own.longest) { own.longest = to - from; own.at = (from + to) / 2; }
    bySeat.set(seat, own);
  }
  const labels = shape("g", { "aria-hidden": "true" });
  for (const [seat, own] of [...bySeat].sort(([a], [b]) => a - b)) {
    const path = shape("path", { class: "seat", "data-seat": seat, d: own.path }, shape("title"));
    path.addEventListener("click", () => { picked = picked === seat ? null : seat; showPicked(); });
    svg.append(path);
    if (own.longest > .018) {
      const [x, y] = point(own.at, (RADIUS + HOLE) / 2).split(" ");
      const label = shape("text", { class: "label", x, y });
      label.textContent = seat;
      labels.append(label);
    }
  }
  svg.append(labels, shape("text", { class: "middle", x: MIDDLE, y: MIDDLE - 8 }),
    shape("text", { class: "below", x: MIDDLE, y: MIDDLE + 12 }), shape("path", { class: "pointer", d: "" }));
  $("ring").replaceChildren(svg);
};

const showRing = () => {
  const svg = $("ring").firstChild;
  if (!svg || !status) return;
  const live = new Map(status.workers.filter((worker) => worker.state === "live").map((worker) => [worker.seat, worker]));
  const sizes = new Map();
  for (const [seat, length] of table.runs) sizes.set(seat, (sizes.get(seat) ?? 0) + length);
  for (const path of svg.querySelectorAll(".seat")) {
    const seat = Number(path.dataset.seat);
    const worker = live.get(seat);
    path.setAttribute("fill", worker ? fillOf(seat) : "url(#vacant)");
    path.dataset.state = worker ? "live" : "vacant";
    setText(path.firstChild, `seat ${seat}: ${count(sizes.get(seat))} of ${count(table.slots)} slots` +
      (worker ? `, pid ${worker.pid}` : ", no live worker: its clients spread over the others"));
  }
  setText(svg.firstChild, `${count(table.slots)} slots: ` + [...sizes].sort(([a], [b]) => a - b).map(([seat, size]) =>
    `seat ${seat} has ${count(size)}${live.has(seat) ? "" : " and no live worker"}`).join(", "));
  setText(svg.querySelector(".middle"), `${live.size}`);
  setText(svg.querySelector(".below"), live.size === 1 ? "live worker" : "live workers");
  const at = explained && explained.slot != null ? (explained.slot + .5) / table.slots : null;
  const pointer = at == null ? "" : `M${point(at, RADIUS - 2)}L${point(at - .012, RADIUS + 8)}L${point(at + .012, RADIUS + 8)}Z`;
  svg.querySelector(".pointer").setAttribute("d", pointer);
  showPicked();
};

const showPicked = () => {
  $("ring").classList.toggle("picked", picked != null);
  for (const path of document.querySelectorAll("#ring .seat")) path.classList.toggle("on", Number(path.dataset.seat) === picked);
  for (const row of document.querySelectorAll("tbody tr")) {
    row.querySelector("button")?.setAttribute("aria-pressed", String(Number(row.dataset.seat) === picked));
  }
};

// Where a client goes.

const explain = async (address) => {
  const box = $("explained");
  try {
    const answer = await fetch(`explain?${new URLSearchParams({ address })}`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    explained = await answer.json();
    const ports = Object.entries(explained.ports).map(([open, own]) => `${open} → ${own}`).join(", ");
    box.replaceChildren(
      element("p", {}, element("b", { textContent: explained.address }), ` goes to `,
        element("b", { textContent: `seat ${explained.seat}` }),
        `${explained.pid == null ? "" : `, pid ${explained.pid}`}, generation ${explained.generation} (port ${ports})`),
      element("ol", {}, ...explained.why.map((step) => element("li", { textContent: step }))));
  } catch (error) {
    explained = null;
    box.replaceChildren(element("p", { className: "wrong", textContent: error.message }));
  }
  showRing();
};
$("explain").addEventListener("submit", (event) => {
  event.preventDefault();
  explain($("address").value.trim());
});

// What happened.

const seatOf = (event) => `Seat ${event.seat}`;
const ended = (event) => event.signal != null ? `ended by signal ${event.signal}` : event.exit != null ? `exited with status ${event.exit}` : "ended";
const span = (seconds) => seconds < 10 ? `${seconds.toFixed(1)} s` : time(seconds);
const measured = (seconds) => seconds < 0.9995e-3 ? `${(seconds * 1e6).toFixed(0)} us` : seconds < 0.99995 ? `${(seconds * 1e3).toFixed(1)} ms` : `${seconds.toFixed(1)} s`;
const SENTENCES = {
  missed: (e) => ["warn", `${plural(e.count, "event")} went by that this page was too slow for`],
  ready: (e) => ["", `${seatOf(e)}: worker of generation ${e.generation} ready after ${span(e.took)}`],
  unproven: (e) => ["warn", `${seatOf(e)}: worker says that it is ready, but does not listen on all its ports`],
  ping_timeout: (e) => ["bad", `${seatOf(e)}: does not answer (${e.cause}); its clients go to others`],
  responsive: (e) => ["good", `${seatOf(e)}: answers again, after ${span(e.silent)}`],
  nobody_answers: (e) => ["bad", `None of ${plural(e.workers, "worker")} answers: all keep their clients`],
  stops: (e) => ["warn", `${seatOf(e)}: worker says that it stops, and is replaced`],
  adopted: (e) => ["", `${seatOf(e)}: ${e.state} worker adopted, pid ${e.pid}`],
  orphan: (e) => ["warn", `Process ${e.pid} may be left from an earlier master: ${e.reason}`],
  failed: (e) => ["bad", `${seatOf(e)}: worker of generation ${e.generation} failed: ${e.reason}`],
  died: (e) => [e.exit === 0 ? "" : "bad", `${seatOf(e)}: live worker of generation ${e.generation} ${ended(e)}, after ${span(e.lived)}`],
  respawn: (e) => ["", `${seatOf(e)}: a new worker is started${e.delay > 0 ? ` in ${span(e.delay)}` : ""}`],
  given_up: (e) => ["bad", `${seatOf(e)}: given up for ${span(e.rest)}: ${e.reason}`],
  retire: (e) => ["", `${seatOf(e)}: worker of generation ${e.generation} is replaced (${e.cause})`],
  retired: (e) => ["", `${seatOf(e)}: worker of generation ${e.generation} gets no new connections any more`],
  ending: (e) => ["", `${seatOf(e)}: worker of generation ${e.generation} is asked to end: ${e.why}`],
  killed: (e) => ["warn", `${seatOf(e)}: worker of generation ${e.generation} did not end, and is killed`],
  ended: (e) => ["", `${seatOf(e)}: worker of generation ${e.generation} ${ended(e)}`],
  swapped: (e) => ["good", `Generation ${e.generation} in force: ${e.occupied} of ${e.seats} seats, in ${measured(e.took)}`],
  on_probation: (e) => ["", `Generation ${e.generation} is on probation for ${span(e.probation)}`],
  probation_passed: (e) => ["good", `Generation ${e.generation} has passed its probation`],
  probation_failed: (e) => ["bad", `Generation ${e.generation} failed on probation: ${e.reason}`],
  returned: (e) => ["warn", `Generation ${e.generation} is in force again`],
  on_trial: (e) => ["", `Generation ${e.generation} is on trial with ${count(e.slots)} of ${count(e.of)} slots`],
  fleet_in_force: (e) => ["", `Fleet: ${e.members} members, ${e.owned} of ${e.slots} slots are this host's`],
  fleet_trouble: (e) => ["bad", `Fleet: ${e.reason}`],
  fleet_trouble_gone: (e) => ["good", `Fleet: no more: ${e.reason}`],
  commit_failed: (e) => ["bad", `The kernel did not take the rules: ${e.reason}`],
  repaired: (e) => ["warn", `Rules repaired (${e.what})${e.writer ? `: changed by ${e.writer.name}, pid ${e.writer.pid}` : ""}`],
  repair_failed: (e) => ["bad", `Rules could not be repaired: ${e.reason}`],
  foreign_rule_found: (e) => ["warn", `A rule of others decides before ours: ${e.rule}`],
  foreign_rule_gone: (e) => ["good", `It does so no more: ${e.rule}`],
  finding_appeared: (e) => [e.severity === "notice" ? "" : "warn", `In the way: ${e.what}`],
  finding_gone: (e) => ["good", `No more in the way: ${e.what}`],
  unresponsive: (e) => ["warn", `${seatOf(e)}: worker of generation ${e.generation} has not answered for too long`],
  retirements_held_back: (e) => ["warn", `${plural(e.workers, "replacement")} wait: at most ${e.rate} in ${span(e.window)}`],
  finishing: (e) => ["warn", `${seatOf(e)}: ${plural(e.connections, "connection")} wait in its sockets: a process is started for them`],
  queue_lost: (e) => ["bad", `${seatOf(e)}: ${plural(e.connections, "waiting connection")} reset, since nobody could be started`],
  left_alone: (e) => ["good", `Nobody has changed the rules for ${span(e.quiet)}`],
  low_watermark_breached: (e) => ["warn", `Memory is above the low mark: ${bytes(e.used)} of ${bytes(e.mark)}`],
  high_watermark_breached: (e) => ["bad", `Memory is above the high mark: ${bytes(e.used)} of ${bytes(e.mark)}`],
  memory_recovered: (e) => ["good", `Memory is below the low mark again: ${bytes(e.used)} of ${bytes(e.mark)}`],
  memory_short: (e) => ["bad", `Memory is above the high mark: ${bytes(e.used)} of ${bytes(e.mark)}`],
};
const UNTOLD = new Set(["all_bands_ready", "stats", "subscribed"]);

const happened = (event) => {
  if (UNTOLD.has(event.event)) return;
  const { event: name, time: at, last_lines: lines, ...fields } = event;
  const [kind, text] = SENTENCES[name]?.(event) ?? ["", `${name.replaceAll("_", " ")} ${Object.entries(fields)
    .filter(([, value]) => value !== null && typeof value !== "object").map(([key, value]) => `${key} ${value}`).join(", ")}`];
  const when = new Date(at * 1000);
  const item = element("li", {}, element("time", { dateTime: when.toISOString(), textContent: when.toLocaleTimeString("en-GB") }),
    element("span", { className: kind, textContent: text }));
  if (lines?.length) item.append(element("pre", { textContent: lines.join("\n") }));
  item.dataset.event = name;
  item.dataset.late = String(Math.round(Date.now() - at * 1000));
  $("events").prepend(item);
  while ($("events").children.length > MOST_EVENTS) $("events").lastChild.remove();
  $("quiet").hidden = true;
  if (kind === "bad" || name === "swapped") setText($("announce"), text);
};

// The connection to the master.

const link = (state, text) => { $("link").dataset.state = state; setText($("link"), text); };
let heard = 0;
const listen = () => {
  const source = new EventSource("events");
  source.addEventListener("status", (message) => {
    heard = Date.now();
    link("live", "live");
    const next = JSON.parse(message.data);
    if (next) take(next);
  });
  source.addEventListener("happened", (message) => {
    const event = JSON.parse(message.data);
    if (event) happened(event);
  });
  source.addEventListener("error", () => {
    link("lost", heard ? "no answer from the master: workers and rules serve on" : "no answer");
    if (source.readyState === EventSource.CLOSED) {
      // Refused, as when too many look: such a source does not try again by itself.
      source.close();
      setTimeout(listen, 3000);
    }
  });
};
listen();
