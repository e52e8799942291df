"use strict";
// The playground: asks this gateway as any other client does, with the user's own key.

const $ = (id) => document.getElementById(id);
const VERSION_HEADER = "x-danlu-version";
let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
let talks = [[], []]; // what each side has been told and has said; they part once their answers differ
let asking = null; // aborts what is being answered

function say(name, values = {}) {
  return WORDS[language][name].replace(/{(\w+)}/g, (_, key) => values[key]);
}

function translate(part) {
  part.querySelectorAll("[data-say]").forEach((one) => (one.textContent = say(one.dataset.say)));
  part.querySelectorAll(".correction textarea").forEach((one) => one.setAttribute("aria-label", say("correction")));
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  translate(document);
  translate($("answer").content);
  $("language").textContent = say("other");
  $("language").lang = language === "zh" ? "en" : "zh";
  $("question").placeholder = say("question");
  $("question").setAttribute("aria-label", say("question"));
  const none = $("right").querySelector('option[value=""]');
  if (none) none.textContent = say("nothing");
}

function headers() {
  const key = $("key").value.trim();
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function reasonOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status}`;
  }
}

async function loadModels() {
  const chosen = [$("left").value, $("right").value];
  let response;
  try {
    response = await fetch("v1/models", { headers: headers() });
  } catch {
    return notice(say("unreachable"));
  }
  if (response.status === 401 || response.status === 403) {
    document.querySelector("details").open = true;
    return notice(say("needsKey"));
  }
  if (!response.ok) return notice(await reasonOf(response));
  const names = (await response.json()).data.map((one) => one.id);
  notice(names.length ? "" : say("noModels"));
  for (const [place, select] of [$("left"), $("right")].entries()) {
    const nothing = place ? [new Option(say("nothing"), "")] : [];
    select.replaceChildren(...nothing, ...names.map((name) => new Option(name, name)));
    if (names.includes(chosen[place])) select.value = chosen[place];
  }
}

// The events of a streamed answer, each parsed, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function body(model, messages) {
  const system = $("system").value.trim();
  return JSON.stringify({
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    temperature: Number($("temperature").value),
    max_tokens: Number($("longest").value),
    stream: true,
    stream_options: { include_usage: true },
  });
}

// Streams one side's answer into the page; gives its text, or null if there is none.
async function answer(model, messages, view, signal) {
  const [name, text, figures] = ["model", "text", "figures"].map((part) => view.querySelector(`.${part}`));
  name.textContent = model;
  view.classList.add("running");
  const begun = performance.now();
  let first = 0;
  let tokens = 0;
  let finish = "";
  let id = "";
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      body: body(model, messages),
      signal,
    });
    if (!response.ok) throw new Error(await reasonOf(response));
    const version = response.headers.get(VERSION_HEADER);
    if (version && version !== model) name.textContent = `${model} · ${version}`;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      id = event.id;
      const choice = event.choices[0];
      if (choice?.delta?.content) {
        first ||= performance.now() - begun;
        text.textContent += choice.delta.content;
      }
      finish = choice?.finish_reason || finish;
      tokens = event.usage?.completion_tokens ?? tokens;
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      view.classList.add("failed");
      const reason = error instanceof TypeError ? say("unreachable") : error.message;
      figures.textContent = say("failed", { reason });
      return null;
    }
    finish = "stopped";
  } finally {
    view.classList.remove("running");
  }
  const seconds = (performance.now() - begun - first) / 1000;
  const rate = tokens > 1 && seconds > 0 ? ((tokens - 1) / seconds).toFixed(1) : "–";
  const said = tokens ? [say("figures", { tokens, first: Math.round(first), rate })] : [];
  if (finish === "length") said.push(say("cut"));
  if (finish === "stopped") said.push(say("stopped"));
  figures.textContent = said.join(" · ");
  if (finish && finish !== "stopped") takeFeedback(view, id, text.textContent);
  return text.textContent;
}

// Thumbs and a correction, for one answer.
function takeFeedback(view, id, text) {
  const part = view.querySelector(".feedback");
  const form = part.querySelector(".correction");
  const area = form.querySelector("textarea");
  const give = async (given) => {
    const thanks = part.querySelector(".thanks");
    try {
      const response = await fetch("v1/feedback", {
        method: "POST",
        headers: headers(),
        body: JSON.stringify({ answer: id, ...given }),
      });
      if (!response.ok) throw new Error(await reasonOf(response));
      const { masked } = await response.json();
      thanks.textContent = masked ? say("thanksMasked", { n: masked }) : say("thanks");
      return true;
    } catch (error) {
      thanks.textContent = error instanceof TypeError ? say("unreachable") : error.message;
      return false;
    }
  };
  const thumbs = ["up", "down"].map((name) => part.querySelector(`.${name}`));
  for (const [place, button] of thumbs.entries()) {
    button.addEventListener("click", async () => {
      if (!(await give({ rating: place ? "down" : "up" }))) return;
      thumbs.forEach((one) => one.setAttribute("aria-pressed", one === button));
    });
  }
  part.querySelector(".correct").addEventListener("click", () => {
    form.hidden = !form.hidden;
    if (!area.value) area.value = text;
    if (!form.hidden) area.focus();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await give({ rating: "down", correction: area.value })) form.hidden = true;
  });
  part.hidden = false;
}

async function ask(question) {
  const models = [$("left").value, $("right").value].filter(Boolean);
  const turn = $("turn").content.firstElementChild.cloneNode(true);
  turn.querySelector(".question").textContent = question;
  const views = models.map(() => $("answer").content.firstElementChild.cloneNode(true));
  turn.querySelector(".answers").append(...views);
  $("talk").append(turn);
  turn.scrollIntoView({ block: "end" });
  asking = new AbortController();
  busy(true);
  await Promise.all(
    models.map(async (model, side) => {
      const asked = [...talks[side], { role: "user", content: question }];
      const said = await answer(model, asked, views[side], asking.signal);
      if (said !== null) talks[side] = [...asked, { role: "assistant", content: said }];
    }),
  );
  busy(false);
  turn.scrollIntoView({ block: "end" });
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("left").disabled = $("right").disabled = $("clear").disabled = is;
  if (!is) asking = null;
}

function clear() {
  talks = [[], []];
  $("talk").replaceChildren();
  $("question").focus();
}

$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  speak();
});
$("key").value = sessionStorage.getItem("key") || ""; // gone once the tab is closed
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value.trim());
  loadModels();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("focus", () => asking || loadModels());
$("right").addEventListener("change", clear);
$("left").addEventListener("change", clear);
$("stop").addEventListener("click", () => asking?.abort());
$("clear").addEventListener("click", clear);
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || asking || !$("left").value) return;
  $("question").value = "";
  ask(question);
});
speak();
loadModels();
