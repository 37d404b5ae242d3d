/* settings.js - the settings of a conversation: the dialog that edits them, and the request that they make. */
"use strict";

const PARAMETERS = [
  {key: "temperature", label: "Temperature", min: 0, max: 2, help: "0 takes the likeliest token each time"},
  {key: "top_p", label: "Top p", min: 0, max: 1, help: "Keep the likeliest tokens up to this share"},
  {key: "top_k", label: "Top k", min: 0, step: 1, help: "Keep this many of the likeliest tokens; 0 keeps all"},
  {key: "min_p", label: "Min p", min: 0, max: 1, help: "Drop tokens less likely than this share of the likeliest"},
  {key: "max_tokens", label: "Max tokens", min: 1, step: 1, help: "Longest answer"},
  {key: "seed", label: "Seed", step: 1, help: "The same seed gives the same answer"},
  {key: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, help: "Against tokens by how often they came"},
  {key: "presence_penalty", label: "Presence penalty", min: -2, max: 2, help: "Against tokens that came at all"},
  {key: "repetition_penalty", label: "Repetition penalty", min: 0.01, help: "Divides the scores of what came; 1 is off"},
];

/* The texts among the settings: dialog field -> key. */
const TEXTS = {system: "system", stops: "stop", extra: "extra"};

/* `onchange` runs after each change to the settings of the conversation that `current` returns. */
function initSettings(current, onchange, onkey) {
  const set = (key, value) => {
    if (value === "" || Number.isNaN(value)) delete current().settings[key];
    else current().settings[key] = value;
    onchange();
  };
  for (const p of PARAMETERS) {
    const input = el("input", {id: "p-" + p.key, type: "number", min: p.min, max: p.max, step: p.step ?? "any",
      inputmode: "decimal", placeholder: "default", oninput: () => set(p.key, input.valueAsNumber)});
    $("parameters").append(el("label", {for: input.id, title: p.help}, p.label, input));
  }
  for (const [id, key] of Object.entries(TEXTS)) $(id).oninput = () => { set(key, $(id).value); checkExtra(); };
  $("key").oninput = () => apiKey.set($("key").value.trim());
  $("key").onchange = onkey;
  $("open-settings").onclick = () => openSettings(current());
  $("settings").onclick = (event) => { if (event.target === $("settings")) $("settings").close(); };
  $("reset").onclick = () => {
    current().settings = {};
    onchange();
    fillSettings(current());
  };
}

function fillSettings(chat) {
  for (const p of PARAMETERS) $("p-" + p.key).value = chat.settings[p.key] ?? "";
  for (const [id, key] of Object.entries(TEXTS)) $(id).value = chat.settings[key] ?? "";
  $("key").value = apiKey.get();
  checkExtra();
}

function openSettings(chat, field) {
  fillSettings(chat);
  $("settings").showModal();
  if (field) $(field).focus();
}

/* Says at once when the further fields are no JSON object. */
function checkExtra() {
  const text = $("extra").value.trim();
  $("extra-error").textContent = text && !isRecord(parseJson(text)) ? "Not a JSON object yet; it is not sent." : "";
}

/* The request for an answer behind the message `upTo`. */
function requestOf(chat, upTo) {
  const {settings} = chat;
  const body = {messages: apiMessages(chat, upTo), stream_options: {include_usage: true, continuous_usage_stats: true}};
  if (chat.model) body.model = chat.model;
  for (const {key} of PARAMETERS) if (Number.isFinite(settings[key])) body[key] = settings[key];
  const stops = (settings.stop ?? "").split("\n").filter(Boolean).map((s) => s.replaceAll("\\n", "\n"));
  if (stops.length) body.stop = stops;
  const extra = parseJson(settings.extra ?? "");
  return isRecord(extra) ? {...body, ...extra} : body;
}
