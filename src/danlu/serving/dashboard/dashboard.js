"use strict";
// The dashboard: the figures of all gateways that share a Redis, as Prometheus gets them.

const $ = (id) => document.getElementById(id);
const EVERY_MILLISECONDS = 2000;
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let before = {}; // figures of the last look, by gateway

function say(name, values = {}) {
  return WORDS[language][name].replace(/{(\w+)}/g, (_, key) => values[key]);
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-say]").forEach((one) => (one.textContent = say(one.dataset.say)));
  $("language").textContent = say("other");
  $("language").lang = language === "zh" ? "en" : "zh";
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function number(value) {
  return value.toLocaleString(language === "zh" ? "zh-CN" : "en-US", { maximumFractionDigits: 1 });
}

function seconds(value) {
  if (value === null) return "–";
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

function rate(name, gateway, key, value) {
  const last = before[gateway];
  if (!last || value < last[key]) return 0;
  return (value - last[key]) / ((performance.now() - last.at) / 1000);
}

function percentiles(metrics, name) {
  if (percentile(metrics, name, 0.5) === null) return say("none");
  const [p50, p95, p99] = [0.5, 0.95, 0.99].map((share) => seconds(percentile(metrics, name, share)));
  return say("percentiles", { p50, p95, p99 });
}

function show(gateway, text) {
  const metrics = parseMetrics(text);
  const failed = total(metrics, "danlu_requests_total", (labels) => labels.status.startsWith("5"));
  const now = {
    at: performance.now(),
    requests: total(metrics, "danlu_requests_total", (labels) => labels.path.startsWith("/v1/")),
    tokens: total(metrics, "danlu_tokens_total", (labels) => labels.kind === "answer"),
    cpu: total(metrics, "process_cpu_seconds_total"),
  };
  const per = (key) => say("perSecond", { n: number(rate(key, gateway, key, now[key])), all: number(now[key]) });
  const hits = total(metrics, "danlu_cache_total", (labels) => labels.outcome === "hit");
  const asked = hits + total(metrics, "danlu_cache_total", (labels) => labels.outcome === "miss");
  const refused = total(metrics, "danlu_adapters_refused");
  const rows = [
    ["requests", per("requests") + (failed ? ` · ${say("failed", { n: number(failed) })}` : "")],
    ["tokens", per("tokens")],
    ["first", percentiles(metrics, "danlu_first_token_seconds")],
    ["answer", percentiles(metrics, "danlu_answer_seconds")],
    ["kept", asked ? `${say("of", { part: number(hits), all: number(asked) })} (${number((100 * hits) / asked)} %)` : say("none")],
    ["running", `${number(total(metrics, "danlu_running_answers"))} · ${say("waiting")} ${number(total(metrics, "danlu_waiting_questions"))}`],
    ["adapters", number(total(metrics, "danlu_adapters_loaded")) + (refused ? ` · ${say("refused")} ${number(refused)}` : "")],
    ["memory", `${number(total(metrics, "process_resident_memory_bytes") / 2 ** 20)} MiB`],
    ["cpu", `${number(100 * rate("cpu", gateway, "cpu", now.cpu))} %`],
  ];
  before[gateway] = now;
  const view = $("gateway").content.firstElementChild.cloneNode(true);
  view.querySelector("h2").textContent = gateway;
  for (const [name, value] of rows) {
    const [term, said] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = say(name);
    said.textContent = value;
    view.querySelector("dl").append(term, said);
  }
  versions(view.querySelector("table"), metrics);
  return view;
}

// A line for each version that has answered.
function versions(table, metrics) {
  const found = new Map();
  for (const { labels, value } of metrics.get("danlu_answers_total") || []) {
    found.set(labels.version, (found.get(labels.version) || 0) + value);
  }
  table.hidden = !found.size;
  const line = (kind, cells) => {
    const row = document.createElement("tr");
    for (const text of cells) row.appendChild(document.createElement(kind)).textContent = text;
    return row;
  };
  table.tHead.append(line("th", [say("version"), say("answers"), say("answered")]));
  for (const [version, answers] of [...found].sort()) {
    const made = total(metrics, "danlu_tokens_total", (labels) => labels.version === version && labels.kind === "answer");
    table.tBodies[0].append(line("td", [version || "–", number(answers), number(made)]));
  }
}

async function look() {
  const key = $("key").value.trim();
  let response;
  try {
    response = await fetch("admin/gateways", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  } catch {
    return notice(say("unreachable"));
  }
  if (response.status === 401 || response.status === 403) {
    $("gateways").replaceChildren();
    return notice(say("needsKey"));
  }
  if (!response.ok) return notice(`${response.status}`);
  const { gateways } = await response.json();
  notice("");
  $("gateways").replaceChildren(...Object.entries(gateways).map(([name, text]) => show(name, text)));
}

async function watch() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((done) => setTimeout(done, EVERY_MILLISECONDS));
  }
}

$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  speak();
  look();
});
$("key").value = sessionStorage.getItem("key") || ""; // gone once the tab is closed
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value.trim());
  look();
});
speak();
watch();
