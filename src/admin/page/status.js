// The status page: takes in a stream of states and shows them. Text that comes with a state is only ever shown as text.

const $ = (id) => document.getElementById(id);
const TOKEN = "merge-sync-proxy.token";
const PAGE = 50;
const CATEGORIES = ["ats", "hris", "accounting", "crm", "ticketing", "filestorage", "knowledgebase", "chat", "calendar", "email"];

const state = {};
const view = { filter: "", sort: "problems", order: "asc", offset: 0 };
let offset = 0; // of the proxy's clock against this one, in milliseconds
let connection; // aborts the stream that is open
let failures = 0;

// ---- elements ----

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const svg = (name, properties) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) made.setAttribute(key, value);
  return made;
};

// Sets what differs, so that selection, focus and screen readers are left alone where nothing is new.
function text(target, value) {
  if (target.textContent !== value) target.textContent = value;
}

// Replaces the children if what they are made of has changed.
function fill(target, made_of, make) {
  const key = JSON.stringify(made_of);
  if (target.made_of === key) return;
  target.made_of = key;
  target.replaceChildren(...[make()].flat());
}

// Keeps one child for each item, by key and in order.
function keep(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    let child = known.get(key(item));
    if (child) known.delete(key(item));
    else {
      child = make(item);
      child.dataset.key = key(item);
    }
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
    update(child, item);
  });
  for (const child of known.values()) child.remove();
}

function meter(share, label, low = false) {
  const bar = element("span", { class: low ? "meter low" : "meter", role: "img", "aria-label": label }, element("i"));
  bar.firstChild.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`;
  return bar;
}

// ---- numbers and times ----

const whole = new Intl.NumberFormat("en");
const rate = (value) => (value >= 100 ? whole.format(Math.round(value)) : value.toFixed(1));
const percent = (share) => (share === null || share === undefined ? "–" : `${share >= 0.9995 ? "100" : (share * 100).toFixed(1)} %`);

function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  const minutes = Math.floor((seconds % 3600) / 60);
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  return `${Math.floor(seconds / 86400)} days`;
}

function latency(microseconds) {
  if (microseconds === null || microseconds === undefined) return ["–", ""];
  if (microseconds < 1000) return [String(Math.round(microseconds)), "µs"];
  if (microseconds < 1e6) return [(microseconds / 1000).toFixed(microseconds < 1e4 ? 1 : 0), "ms"];
  return [(microseconds / 1e6).toFixed(1), "s"];
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (count >= 1024 && at < units.length - 1) [count, at] = [count / 1024, at + 1];
  return `${at === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${units[at]}`;
}

const clock = (milliseconds) => new Date(milliseconds).toLocaleTimeString("en-GB");
const now = () => Date.now() + offset;

// ---- tiles ----

const TILES = [
  { name: "Requests", column: "requests", now: "requests_per_second", show: (now) => [rate(now.requests_per_second), "/s"], peak: rate },
  { name: "Hit ratio", column: "hit_ratio", now: "hit_ratio", show: (now) => percent(now.hit_ratio).split(" "), peak: percent, top: 1 },
  { name: "Calls to Merge", column: "calls", now: "calls_per_second", show: (now) => [rate(now.calls_per_second), "/s"], peak: rate },
  { name: "Calls saved today", column: "saved", show: (now) => [whole.format(now.calls_saved_today), ""], peak: (value) => `${rate(value)}/s` },
  { name: "Hits, 99 % within", column: "hit_p99", now: "hit_p99_microseconds", show: (now) => latency(now.hit_p99_microseconds), peak: (value) => latency(value).join(" ") },
  { name: "Misses, 99 % within", column: "miss_p99", now: "miss_p99_microseconds", show: (now) => latency(now.miss_p99_microseconds), peak: (value) => latency(value).join(" ") },
];
const HOUR = 720; // samples
const SHORTEST = 60; // a young proxy's first minutes fill the width

function tiles() {
  keep($("tiles"), TILES, (tile) => tile.column, (tile) =>
    element("div", {}, element("dt", {}, tile.name), element("dd"), element("dd", { class: "chart" }, svg("svg", { viewBox: "0 0 720 36", preserveAspectRatio: "none", role: "img" }), element("div", { class: "peak" }, element("span"), element("span")))),
  (child, tile) => {
    const [number, unit] = tile.show(state.now);
    const [drawing, notes] = child.lastChild.children;
    fill(child.children[1], [number, unit], () => [number, element("small", {}, unit ?? "")]);
    fill(drawing, state.history?.taken, () => sparkline(tile));
    annotate(tile, drawing, notes);
  });
}

const widthOf = (values) => Math.min(HOUR, Math.max(SHORTEST, values.length));

// What the drawing says in words. The figure above it may be higher than any sample yet, and is a part of the hour.
function annotate(tile, drawing, notes) {
  const values = state.history?.[tile.column] ?? [];
  text(notes.firstChild, `${duration(widthOf(values) * (state.history?.every_seconds ?? 5) * 1000)} ago`);
  const known = values.filter((value) => value !== null);
  const all = [...known, tile.now ? state.now[tile.now] : null].filter((value) => value !== null && value !== undefined);
  const peak = tile.peak(Math.max(...all));
  text(notes.lastChild, known.length ? `peak ${peak}` : "");
  const words = known.length ? `${tile.name} over the last hour: lowest ${tile.peak(Math.min(...all))}, highest ${peak}` : `${tile.name}: no history yet`;
  if (drawing.getAttribute("aria-label") !== words) drawing.setAttribute("aria-label", words);
}

function sparkline(tile) {
  const values = state.history?.[tile.column] ?? [];
  const width = widthOf(values);
  const top = (tile.top ?? Math.max(0, ...values)) || 1;
  const x = (at) => (((width - values.length + at + 1) / width) * 720).toFixed(1);
  const y = (value) => 34 - (value / top) * 31;
  let line = "", area = "", open = false;
  values.forEach((value, at) => {
    if (value === null) {
      if (open) area += `L${x(at - 1)} 36Z`;
      open = false;
      return;
    }
    const point = `${x(at)} ${y(value).toFixed(1)}`;
    line += open ? `L${point}` : `M${point}h0.01`;
    area += open ? `L${point}` : `M${x(at)} 36L${point}`;
    open = true;
  });
  if (open) area += `L${x(values.length - 1)} 36Z`;
  return [svg("path", { class: "base", d: "M0 35.5H720" }), svg("path", { class: "area", d: area }), svg("path", { class: "line", d: line })];
}

// ---- accounts ----

const CONDITIONS = { problem: "Problem", warning: "Warning", ok: "OK", idle: "Idle" };
const dot = () => element("span", { class: "dot", "aria-hidden": "true" });
const MODELS = { FAILED: ["failed", "problem"], PARTIALLY_SYNCED: ["in part", "warning"], SYNCING: ["syncing", "ok"], DONE: ["done", ""], PAUSED: ["paused", "idle"], DISABLED: ["disabled", "idle"] };
const FRESHNESS = { stale: "stale", expired: "expired", purged: "purged", refused: "Merge refused" };

function accounts() {
  const { rows, total, matching, offset: first, conditions } = state.accounts;
  text($("accounts-total"), `${whole.format(total)} in all`);
  keep($("conditions"), Object.keys(CONDITIONS), (name) => name,
    (name) => element("button", { type: "button", class: name, "aria-pressed": "false", onclick: () => filter($("filter").value === name ? "" : name) }),
    (chip, name) => {
      chip.setAttribute("aria-pressed", String(view.filter === name));
      fill(chip, conditions[name], () => [dot(), CONDITIONS[name], " ", element("b", {}, whole.format(conditions[name]))]);
    });
  for (const head of document.querySelectorAll("th[data-sort]")) {
    if (head.dataset.sort === view.sort) head.setAttribute("aria-sort", view.order === "asc" ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
  keep($("accounts-table").tBodies[0], rows, (row) => `${row.upstream} ${row.name}`, accountRow, showAccount);
  const empty = $("accounts-empty");
  empty.hidden = rows.length > 0;
  text(empty, total === 0 ? "No account has a name in the configuration, and none has been asked for." : `None of ${whole.format(total)} accounts fits this filter.`);
  $("pages").hidden = matching <= PAGE;
  text($("range"), `${whole.format(Math.min(first + 1, matching))}–${whole.format(first + rows.length)} of ${whole.format(matching)}`);
  $("earlier").disabled = first === 0;
  $("later").disabled = first + rows.length >= matching;
  fill($("names"), rows.map((row) => row.named && row.name), () => rows.filter((row) => row.named).map((row) => element("option", { value: row.name })));
  const categories = [...new Set([...CATEGORIES, ...rows.flatMap((row) => row.categories)])];
  fill($("categories"), categories, () => categories.map((name) => element("option", { value: name })));
}

function accountRow() {
  const cell = (label, name = "") => element("td", { "data-label": label, class: name });
  return element("tr", {}, cell("State", "corner"), cell("Account", "title"), cell("Models"), cell("Page age", "number nowrap"), cell("Next sync", "number nowrap"), cell("Budget left"), cell("Last error"), cell("", "actions"));
}

function showAccount(line, row) {
  line.row = row;
  const [condition, name, models, , , budget, , actions] = line.children;
  const because = !row.obstacle || row.obstacle === row.because ? row.because : `${row.because}; ${row.obstacle}`;
  fill(condition, [row.condition, because], () => [element("span", {}, element("span", { class: `state ${row.condition}` }, dot(), CONDITIONS[row.condition]), element("span", { class: "sub" }, because))]);
  fill(name, [row.name, row.upstream, row.categories], () => [element("span", {}, element("span", { class: row.named ? "name" : "raw" }, row.name), element("span", { class: "sub" }, [row.upstream, ...row.categories].join(" · ")))]);
  fill(models, row.models, () => modelsOf(row.models, models.querySelector("details")?.open));
  models.classList.toggle("none", row.models.length === 0);
  fill(budget, [row.budget_left, row.budget, row.budget_burst, row.waiting], () => budgetOf(row));
  fill(actions, row.name, () => [
    element("button", { type: "button", onclick: () => explainAccount(line.row) }, "Explain", element("span", { class: "hidden" }, ` ${row.name}`)),
    " ",
    element("button", { type: "button", class: "danger", onclick: () => askPurge(line.row.name) }, "Purge…", element("span", { class: "hidden" }, ` ${row.name}`)),
  ]);
  showTimes(line);
}

// What changes with the clock alone.
function showTimes(line) {
  const row = line.row, time = now(), [, , , age, next, , error] = line.children;
  const left = row.fresh_until - time;
  const fresh = row.freshness === "fresh" ? (left > 0 ? `fresh for ${duration(left + 500)}` : "stale") : FRESHNESS[row.freshness];
  two(age, row.fetched_at === null ? "–" : duration(time - row.fetched_at), fresh ?? "");
  const due = row.next_sync - time;
  two(next, row.next_sync === null ? "–" : due > 0 ? `in ${duration(due)}` : "due", row.next_sync === null ? "" : clock(row.next_sync));
  const held = Math.max(row.paused_until ?? 0, row.obstacle_until ?? 0) - time;
  const pause = held >= 1000 ? `${row.paused_until > time ? "paused" : "no call"} for ${duration(held)}` : "";
  two(error, row.last_error ? row.last_error.text : "–", row.last_error ? [`${duration(time - row.last_error.at)} ago`, pause].filter(Boolean).join(", ") : pause);
  next.classList.toggle("none", row.next_sync === null);
  error.classList.toggle("none", !row.last_error);
}

function two(cell, first, second) {
  if (!cell.firstChild) cell.append(element("span", {}, element("span"), element("span", { class: "sub" })));
  text(cell.firstChild.firstChild, first);
  text(cell.firstChild.lastChild, second);
}

function modelsOf(models, open) {
  if (models.length === 0) return [element("span", { class: "muted" }, "–")];
  const counts = new Map();
  for (const { status } of models) counts.set(status, (counts.get(status) ?? 0) + 1);
  const order = ["FAILED", "PARTIALLY_SYNCED", "SYNCING", "DONE"];
  const place = (status) => (order.includes(status) ? order.indexOf(status) : order.length);
  const parts = [...counts].sort(([a], [b]) => place(a) - place(b)).map(([status, count]) => {
    const [word, tone] = MODELS[status] ?? [status.toLowerCase() || "unknown", "warning"];
    return element("span", {}, element("span", { class: tone }, `${count} ${word}`));
  });
  const list = models.map(({ name, status }) => element("li", {}, element("span", {}, name || "?"), element("span", { class: (MODELS[status] ?? ["", "warning"])[1] || "muted" }, status || "none")));
  return [element("details", { open }, element("summary", {}, element("span", { class: "tally" }, ...parts)), element("ul", {}, ...list))];
}

function budgetOf(row) {
  if (row.budget === null) return [element("span", { class: "muted" }, "unlimited")];
  const words = `${row.budget_left} of ${row.budget_burst}`;
  const share = row.budget_burst ? row.budget_left / row.budget_burst : 0;
  const waiting = row.waiting ? `, ${row.waiting} waiting` : "";
  return [element("span", { title: "calls that could go at once, and the limit" }, meter(share, `${words} calls could go at once`, share < 0.2), element("span", { class: "pair" }, words, element("span", { class: "muted" }, `${row.budget}${waiting}`)))];
}

// ---- consumers, budgets, cache, events ----

function consumers() {
  const all = state.consumers.reduce((sum, row) => sum + row.calls_total, 0);
  keep($("consumers-table").tBodies[0], state.consumers, (row) => row.name, () => {
    const cell = (label, name = "") => element("td", { "data-label": label, class: name });
    return element("tr", {}, cell("Consumer", "title"), cell("Requests/s", "number"), cell("Hit ratio", "number"), cell("Share of calls"), cell("Quota left", "number nowrap"), cell("Refused"));
  }, (line, row) => {
    const [name, requests, hits, share, quota, refused] = line.children;
    fill(name, [row.name, row.waiting], () => [element("span", {}, element("span", { class: "name" }, row.name), row.waiting ? element("span", { class: "sub" }, `${row.waiting} waiting for Merge`) : null)]);
    two(requests, rate(row.requests_per_second), `${whole.format(row.requests_total)} in all`);
    fill(hits, row.hit_ratio, () => [element("span", {}, percent(row.hit_ratio))]);
    const part = all ? row.calls_total / all : 0;
    fill(share, [part.toFixed(3), row.calls_total, row.calls_per_second], () => [element("span", {}, meter(part, percent(part)), element("span", { class: "pair" }, percent(part), element("span", { class: "muted" }, `${whole.format(row.calls_total)}, ${rate(row.calls_per_second)}/s now`)))]);
    two(quota, row.quota === null ? "unlimited" : `${whole.format(row.quota_left)} of ${whole.format(row.quota_burst)} at once`, row.quota ?? "");
    fill(refused, row.refused, () => (row.refused.length ? [element("span", {}, ...row.refused.slice(0, 3).map(({ reason, count }) => element("span", { class: "sub" }, `${whole.format(count)} ${reason}`)))] : [element("span", { class: "muted" }, "none")]));
    refused.classList.toggle("none", row.refused.length === 0);
  });
}

const fact = (name, value, bar) => [element("dt", {}, name), element("dd", {}, value), bar ? element("dd", { class: "wide" }, bar) : null].filter(Boolean);

// Whether calls to an upstream may go: in a word, and how it is to be looked at.
function standing(row) {
  const left = row.blocked_until > now() ? Math.ceil((row.blocked_until - now()) / 1000) : 0;
  if (left) return [`stopped for ${left} s`, "problem"];
  if (row.failures_allowed !== null && row.failures >= row.failures_allowed) return ["stopped, too many failed", "problem"];
  if (row.breaker && row.breaker !== "closed") return [`breaker ${row.breaker}`, "problem"];
  return row.held_back ? ["some are held back", "warning"] : ["calls may go", "ok"];
}

// At the top, since it concerns all accounts of an upstream; without a time, which would be read aloud every second.
function stopped() {
  const names = state.upstreams.filter((row) => standing(row)[1] === "problem").map((row) => row.name);
  $("stopped").hidden = names.length === 0;
  text($("stopped"), names.length ? `No calls go to ${names.join(", ")}, since too many have failed. Pages are served stale where there are any.` : "");
}

function budgets() {
  keep($("upstreams"), state.upstreams, (row) => row.name, () => element("div", { class: "group" }), (group, row) => {
    const [word, tone] = standing(row);
    fill(group, [row, word], () => {
      const flights = row.concurrency === null ? String(row.in_flight) : `${row.in_flight} of ${row.concurrency}`;
      const failed = row.failures_allowed === null ? "unlimited" : `${row.failures} of ${row.failures_allowed}`;
      return [
        element("h3", {}, row.name, element("span", { class: `state ${tone}` }, dot(), word)),
        element("dl", { class: "facts" },
          ...fact("Calls in flight", flights, row.concurrency && meter(row.in_flight / row.concurrency, flights, row.in_flight >= row.concurrency)),
          ...fact(row.failure_budget ? `Failures, at most ${row.failure_budget}` : "Failures", failed, row.failures_allowed && meter(row.failures / row.failures_allowed, failed, row.failures / row.failures_allowed >= 0.7)),
          ...(row.held_back ? fact("Held back", row.held_back) : []),
          ...fact("Waiting for budget", String(row.waiting)),
          ...fact("Limit per account", row.per_account ?? "unlimited"),
          ...(row.breaker ? fact("Circuit breaker", row.breaker) : [])),
      ];
    });
  });
  const { cache } = state;
  fill($("cache"), cache, () => [
    element("h3", {}, "Cache"),
    element("dl", { class: "facts" },
      ...fact("Pages", whole.format(cache.entries)),
      ...fact("Memory", `${bytes(cache.bytes)} of ${bytes(cache.capacity)}`, meter(cache.bytes / cache.capacity, "memory in use")),
      ...fact("Fetches under way", whole.format(cache.flights)),
      ...fact("Requests that wait for them", whole.format(cache.waiters))),
  ]);
}

const KINDS = { reload: ["Reloaded", "ok"], "reload-failed": ["Reload failed", "problem"], purge: ["Purged", ""], webhook: ["Webhook", ""], breaker: ["Failure budget", "warning"], "rate-limited": ["Merge refused", "problem"], "upstream-failed": ["Call failed", "problem"], recovered: ["Recovered", "ok"], lifecycle: ["Proxy", ""] };

function events() {
  $("events-empty").hidden = state.events.length > 0;
  keep($("events"), state.events, (event) => String(event.id), (event) => {
    const [word, tone] = KINDS[event.kind] ?? [event.kind, ""];
    return element("li", {},
      element("time", { datetime: new Date(event.at).toISOString() }, clock(event.at)),
      element("span", {}, element("span", { class: `kind ${tone}` }, word), event.subject ? ` ${event.subject}` : "", element("span", { class: "muted" }, ` ${event.text}`)),
      event.count > 1 ? element("span", { class: "muted", "aria-label": `${event.count} times` }, `×${event.count}`) : element("span"));
  }, () => {});
}

function show(news) {
  if ("accounts" in news) accounts();
  if ("consumers" in news) consumers();
  if ("events" in news) events();
  tiles();
  stopped();
  budgets();
  text($("version"), state.proxy.version);
  for (const line of $("accounts-table").tBodies[0].children) showTimes(line);
}

// ---- the stream ----

const headers = () => {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { authorization: `Bearer ${token}` } : {};
};

function live(word, value) {
  document.body.dataset.live = value;
  if (value !== "yes") text($("uptime"), "");
  text($("live-text"), word);
}

function notice(words) {
  $("notice").hidden = !words;
  text($("notice"), words);
  clearTimeout(notice.timer);
  if (words) notice.timer = setTimeout(() => notice(""), 20000);
}

function take(news) {
  const started = state.proxy?.started_at;
  offset = news.proxy.time - Date.now();
  const { sample, ...parts } = news;
  Object.assign(state, parts);
  if (sample && state.history) {
    for (const [name, value] of Object.entries(sample.values)) {
      state.history[name].push(value);
      if (state.history[name].length > HOUR) state.history[name].shift();
    }
    state.history.taken = sample.taken;
  }
  if (started && started !== state.proxy.started_at) notice(`The proxy was restarted at ${clock(state.proxy.started_at)}. Counts began anew.`);
  $("status").hidden = false;
  $("login").hidden = true;
  failures = 0;
  const ready = state.proxy.condition === "ready";
  live(ready ? "Live" : `Live, ${state.proxy.condition}`, "yes");
  text($("uptime"), `up ${duration(now() - state.proxy.started_at)}`);
  const reload = state.proxy.last_reload;
  $("reload").hidden = !reload || reload.succeeded;
  $("reload-open").hidden = !state.proxy.reloadable;
  text($("reload"), reload ? `The configuration was not taken in at ${clock(reload.at)}, and the one before is still in use: ${reload.text}` : "");
  const waiting = state.proxy.needs_restart ?? [];
  $("restart").hidden = !waiting.length;
  text($("restart"), waiting.length ? `Needs a restart, and stays as it was until then: ${waiting.join(", ")}` : "");
  show(news);
}

async function listen() {
  connection?.abort();
  connection = new AbortController();
  const { signal } = connection;
  const query = new URLSearchParams({ ...view, limit: PAGE });
  try {
    const answer = await fetch(`/api/events?${query}`, { headers: headers(), signal, cache: "no-store" });
    if (answer.status === 401) return login();
    if (!answer.ok) {
      const { error, detail } = await answer.json();
      throw new Error(error ?? detail);
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let received = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      received += value;
      const whole = received.split("\n\n");
      received = whole.pop();
      for (const event of whole) {
        const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        if (field("event") === "state") take(JSON.parse(field("data")));
      }
    }
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof TypeError)) notice(String(error.message ?? error));
  }
  if (!signal.aborted) comeBack();
}

// The proxy has gone or the way to it: tries again, at first soon, later every ten seconds.
function comeBack() {
  failures += 1;
  const pause = Math.min(10, 2 ** Math.min(failures - 1, 4)) * (0.8 + Math.random() * 0.4);
  live(`Connection lost, trying again${state.proxy ? `; last seen ${clock(state.proxy.time)}` : ""}`, "no");
  setTimeout(listen, pause * 1000);
}

function login() {
  const refused = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  $("status").hidden = true;
  $("stopped").hidden = true;
  $("login").hidden = false;
  text($("login-error"), refused ? "That is not the token." : "");
  live("Not signed in", "connecting");
  $("token").focus();
}

// ---- what people do ----

function filter(words) {
  $("filter").value = words;
  view.filter = words.trim();
  view.offset = 0;
  listen();
}

let typing;
$("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => filter($("filter").value), 200);
});

for (const head of document.querySelectorAll("th[data-sort]")) {
  head.firstElementChild.addEventListener("click", () => {
    view.order = view.sort === head.dataset.sort && view.order === "asc" ? "desc" : "asc";
    view.sort = head.dataset.sort;
    view.offset = 0;
    listen();
  });
}

const turn = (by) => () => {
  view.offset = Math.max(0, view.offset + by);
  listen();
};
$("earlier").addEventListener("click", turn(-PAGE));
$("later").addEventListener("click", turn(PAGE));

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value);
  $("token").value = "";
  listen();
});

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (answer.status === 401) login();
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? body.detail ?? `the proxy answered ${answer.status}`);
  return body;
}

let purged; // the account that the dialog is about; null is all
function askPurge(account) {
  purged = account;
  text($("purge-title"), account === null ? "Purge all accounts?" : `Purge ${account}?`);
  $("purge").querySelector("[value=soft]").checked = true;
  $("purge").returnValue = "";
  $("purge").showModal();
}
$("purge-all").addEventListener("click", () => askPurge(null));
$("purge").addEventListener("close", async () => {
  if ($("purge").returnValue !== "purge") return;
  const hard = $("purge").querySelector("[value=hard]").checked;
  const path = purged === null ? "/api/cache" : `/api/cache/accounts/${encodeURIComponent(purged)}`;
  try {
    const { purged: pages } = await ask(`${path}${hard ? "?hard=true" : ""}`, { method: "DELETE" });
    notice(`${pages} ${pages === 1 ? "page" : "pages"} of ${purged ?? "all accounts"} ${hard ? "dropped" : "made stale"}.`);
  } catch (error) {
    notice(`Nothing was purged: ${error.message}`);
  }
});

function openReload() {
  $("reload-report").hidden = true;
  $("reload-report").replaceChildren();
  text($("reload-confirm"), "Reload");
  text($("reload-cancel"), "Cancel");
  text($("reload-title"), "Reload the configuration?");
  $("reload-means").hidden = false;
  $("reload-dialog").showModal();
}
$("reload-open").addEventListener("click", openReload);
$("reload-cancel").addEventListener("click", () => $("reload-dialog").close());

$("reload-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = $("reload-confirm");
  // A button that is disabled would lose the focus.
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  text(button, "Reloading…");
  let report, title;
  try {
    const answer = await fetch("/api/reload", { method: "POST", headers: headers() });
    if (answer.status === 401) {
      $("reload-dialog").close();
      return login();
    }
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) [title, report] = ["Configuration reloaded", reloaded(told)];
    else if (told.faults) [title, report] = ["Configuration not reloaded", notReloaded(told.faults)];
    else throw new Error(told.error ?? `the proxy answered ${answer.status}`);
  } catch (error) {
    [title, report] = ["No answer", [element("p", { class: "problem" }, `Whether it was reloaded is not known: ${error.message}`)]];
  } finally {
    button.removeAttribute("aria-disabled");
    text(button, "Reload again");
    text($("reload-cancel"), "Close");
  }
  text($("reload-title"), title);
  $("reload-means").hidden = true;
  $("reload-report").replaceChildren(...report);
  $("reload-report").hidden = false;
});

const list = (title, lines, kind = "span") => (lines.length ? [element("h3", {}, title), element("ul", {}, ...lines.map((line) => element("li", {}, element(kind, {}, line))))] : []);

function reloaded({ changed = [], needs_restart = [], warnings = [] }) {
  const verdict = changed.length || needs_restart.length ? "Reloaded." : "Nothing has changed in the file.";
  return [element("p", { class: "state ok" }, dot(), verdict), ...list("In force now", changed, "code"), ...list("Stays as it was until a restart", needs_restart, "code"), ...list("Warnings", warnings)];
}

function notReloaded(faults) {
  const verdict = `Nothing was changed: ${faults.length === 1 ? "there is a fault" : `there are ${faults.length} faults`} in the configuration.`;
  const place = ({ file, line, column }) => (line ? `${file}, line ${line}, column ${column}` : file);
  const fault = (one) => element("li", {}, one.key ? element("b", {}, one.key) : null, " ", one.written ? element("code", {}, one.written) : null, one.key || one.written ? ": " : null, one.message, element("span", { class: "sub" }, place(one)));
  return [element("p", { class: "state problem" }, dot(), verdict), element("ol", {}, ...faults.map(fault))];
}

function explainAccount(row) {
  $("explain-account").value = row.name;
  $("explain-category").value = row.categories[0] ?? $("explain-category").value;
  $("explain-query").value = "";
  $("explain").requestSubmit();
  $("explain").scrollIntoView({ block: "center" });
  $("explain-account").focus({ preventScroll: true });
}

const WOULD = { hit: ["be a hit", "ok"], stale: ["be served stale", "warning"], miss: ["make a call to Merge", "warning"], refused: ["be refused", "problem"], bypass: ["pass through", ""], depend: ["depend on more", ""] };

$("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams({ account: $("explain-account").value.trim(), category: $("explain-category").value.trim(), query: $("explain-query").value.trim().replace(/^\?/, "") });
  try {
    $("explained").replaceChildren(...explanation(await ask(`/api/explain?${query}`)));
  } catch (error) {
    $("explained").replaceChildren(element("p", { class: "error" }, error.message));
  }
});

function explanation({ key, stored, calls, last_call: last, next_request: { would, because } }) {
  const [words, tone] = WOULD[would] ?? [would, ""];
  const verdict = element("p", { class: "verdict" }, "The next request would ", element("b", { class: tone }, words), `: ${because.replace(/\.$/, "")}.`);
  const facts = [...fact("Asks Merge for", element("code", {}, key.query ? `${key.path}?${key.query}` : key.path)), ...fact("Upstream", key.upstream), ...fact("A call now", calls.may_go ? "may go" : element("span", { class: "problem" }, `may not go: ${calls.because}`))];
  if (last) facts.push(...fact("Last call", last.succeeded ? `succeeded ${duration(last.seconds_ago * 1000)} ago` : element("span", { class: "problem" }, `failed ${duration(last.seconds_ago * 1000)} ago: ${last.because}`)));
  if (stored) {
    const left = stored.lifetime_seconds - stored.age_seconds;
    const renewal = stored.purged ? "with the next request, since it was purged" : left > 0 ? `with the first request after ${clock(Date.now() + left * 1000)}, in ${duration(left * 1000)}` : "with the next request";
    facts.push(
      ...fact("Cached", `${stored.kind} with status ${stored.status}, ${bytes(stored.bytes)}`),
      ...fact("Condition", stored.state),
      ...fact("Age", `${duration(stored.age_seconds * 1000)} of a lifetime of ${duration(stored.lifetime_seconds * 1000)}`),
      ...fact("Refreshes", renewal),
      ...(stored.waits_after_failure ? fact("After a failure", "Merge is left alone for a moment") : []),
      ...fact("Then served", `${duration(stored.while_revalidate_seconds * 1000)} while it is fetched anew, ${duration(stored.if_error_seconds * 1000)} if Merge fails`),
      ...fact("Entity tag", element("code", {}, stored.etag ?? "none")));
  } else facts.push(...fact("Cached", "nothing"));
  facts.push(...fact("As of", clock(now())));
  return [verdict, element("dl", { class: "facts" }, ...facts)];
}

// Ages go on between two states, and while there is no connection.
setInterval(() => {
  if (document.body.dataset.live !== "no") return;
  for (const line of $("accounts-table").tBodies[0].children) showTimes(line);
}, 1000);

listen();
