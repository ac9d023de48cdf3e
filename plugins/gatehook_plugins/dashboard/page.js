// Asks the gateway for its figures, and shows them. Whatever comes from there is set as text, never as HTML.

import { chart } from "./chart.js";

const KEY = "gatehook.key";
const DAYS = 14;
const DAY = 86_400_000;
const REFRESH = 10_000;
const MOST_ASKED = 30; // models whose response times and errors are asked for
const NONE = "–";

const at = (id) => document.getElementById(id);
const past = new Map(); // what was used on days that are over: that does not change any more
let key = sessionStorage.getItem(KEY) ?? "";
let timer;
let days = [];

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, data.error?.message ?? `${answer.status} ${answer.statusText}`);
  return data;
}

/** What the gateway answers; null where it has nothing to tell, because a plugin is off or away. */
async function perhaps(path, notes) {
  try {
    return await ask(path);
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    notes.add(error.message);
    return null;
  }
}

// --- figures as people read them

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const number = (value) => (value == null ? NONE : compact.format(value));
const seconds = (ms) => (ms == null ? NONE : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const percent = (share) => (share == null ? NONE : `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`);

function dollars(value) {
  if (value == null) return NONE;
  const digits = value && value < 1 ? 4 : 2;
  return `$${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

const MEASURES = {
  requests: ["Requests", (used) => used.total_requests, number],
  tokens: ["Tokens", (used) => used.total_tokens, number],
  cost: ["Cost", (used) => used.total_cost, dollars],
};

// --- asking

const date = (moment) => new Date(moment).toISOString().slice(0, 10);

async function usedOn(day, today, notes) {
  if (past.has(day)) return past.get(day);
  const used = await perhaps(`api/llm/stats/usage?start_date=${day}&end_date=${day}`, notes);
  if (used && day < today) past.set(day, used);
  return used;
}

async function vitals(models, notes) {
  const asked = models.slice(0, MOST_ASKED);
  const path = (id) => id.split("/").map(encodeURIComponent).join("/");
  const found = await Promise.all(asked.map(({ id }) => perhaps(`api/llm/models/${path(id)}/status`, notes)));
  return new Map(asked.map(({ id }, place) => [id, found[place]]));
}

async function figures() {
  const notes = new Set();
  const now = Date.now();
  const today = date(now);
  const names = Array.from({ length: DAYS }, (_, place) => date(now - (DAYS - 1 - place) * DAY));
  const listed = await ask("api/llm/models"); // refused without a key that is good: then nothing else is asked
  const [health, used, speed, ...byDay] = await Promise.all([
    perhaps("health", notes),
    perhaps(`api/llm/stats/usage?start_date=${names[0]}`, notes),
    perhaps("api/llm/stats/performance", notes),
    ...names.map((day) => usedOn(day, today, notes)),
  ]);
  const models = rows(listed.models, used?.by_model ?? {});
  const states = await vitals(models, notes);
  return { health, used, speed, models, states, notes, days: names.map((day, place) => [day, byDay[place]]) };
}

/** The models that are listed or were used, the most expensive first. */
function rows(listed, used) {
  const known = new Map(listed.map((model) => [model.id, { ...model, used: used[model.id] }]));
  for (const [id, figures] of Object.entries(used)) if (!known.has(id)) known.set(id, { id, used: figures });
  const order = (one) => [one.used?.cost ?? 0, one.used?.requests ?? 0];
  return [...known.values()].sort((a, b) => {
    const [costA, requestsA] = order(a);
    const [costB, requestsB] = order(b);
    return costB - costA || requestsB - requestsA || (a.id < b.id ? -1 : 1);
  });
}

// --- showing

function made(name, text, ...classes) {
  const element = document.createElement(name);
  element.textContent = text;
  element.classList.add(...classes);
  return element;
}

function tile(title, value, note) {
  const box = document.createElement("div");
  box.append(made("dt", title), made("dd", value), made("dd", note, "note"));
  return box;
}

function showTiles({ used, speed }) {
  const times = speed?.response_times;
  const over = `last ${DAYS} days`;
  at("tiles").replaceChildren(
    tile("Requests", number(used?.total_requests), over),
    tile("Tokens", number(used?.total_tokens), over),
    tile("Cost", dollars(used?.total_cost), over),
    tile("Response, median", seconds(times?.p50_ms), `95 %: ${seconds(times?.p95_ms)}, last hour`),
    tile("Errors", percent(speed?.error_rate), "last hour"),
    tile("Requests a minute", number(speed?.throughput.requests_per_minute), "last hour"),
  );
}

function showChart() {
  const measure = document.querySelector("input[name=measure]:checked").value;
  const [title, of, told] = MEASURES[measure];
  const shown = days.map(([day, used]) => ({ day, value: (used && of(used)) || 0 }));
  at("chart").replaceChildren(chart(shown, title, told));
}

function showModels({ models, states }) {
  const lines = models.map((model) => {
    const state = states.get(model.id);
    const health = state?.health ?? model.status ?? "";
    const name = made("th", model.id);
    name.scope = "row";
    name.title = model.id;
    const line = document.createElement("tr");
    line.append(
      name,
      made("td", model.provider ?? NONE),
      health ? made("td", health, "health", health) : made("td", "not in the settings"),
      made("td", seconds(state?.response_time_ms), "number"),
      made("td", percent(state?.error_rate), "number"),
      made("td", number(model.used?.requests ?? 0), "number"),
      made("td", number(model.used?.tokens ?? 0), "number"),
      made("td", dollars(model.used ? model.used.cost : 0), "number"),
    );
    return line;
  });
  at("models").replaceChildren(...lines);
}

function show(found) {
  const told = found.health?.status ?? "";
  const status = told === "ok" ? "healthy" : told; // [plugins.health] can be told to say no more
  at("health").textContent = status;
  at("health").className = status && `health ${status}`;
  at("updated").textContent = `updated ${new Date().toLocaleTimeString()}`;
  const issues = [...(found.health?.issues ?? []), ...found.notes];
  at("issues").replaceChildren(...issues.map((issue) => made("li", issue)));
  at("issues").hidden = !issues.length;
  days = found.days;
  showTiles(found);
  showChart();
  showModels(found);
  const isFirst = at("figures").hidden;
  at("figures").hidden = false;
  if (isFirst) at("chart").scrollLeft = at("chart").scrollWidth; // today, where there is no room for all days
  at("door").hidden = true;
  at("forget").hidden = !key;
  tell("");
}

function tell(trouble) {
  at("trouble").textContent = trouble;
  at("trouble").hidden = !trouble;
}

function openDoor(message) {
  at("figures").hidden = true;
  at("forget").hidden = true;
  at("door").hidden = false;
  at("key").focus();
  tell(message);
}

async function refresh() {
  clearTimeout(timer);
  const used = key;
  try {
    const found = await figures();
    if (used !== key) return; // another key was given meanwhile
    show(found);
  } catch (error) {
    if (used !== key) return;
    if (error instanceof Refused && error.status === 401) {
      openDoor(key ? error.message : "");
      return;
    }
    tell(
      error instanceof Refused
        ? `${error.message} (is [plugins.llm_api] enabled?)`
        : "The gateway does not answer; what is shown is old. Trying again.",
    );
  }
  timer = setTimeout(refresh, REFRESH);
}

function use(given) {
  key = given;
  past.clear();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  at("key").value = "";
  refresh();
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  use(at("key").value.trim());
});
at("forget").addEventListener("click", () => use(""));
at("measures").addEventListener("change", showChart);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else refresh();
});
refresh();
