/* page.js - the page itself: which conversation is open, the answers under way, and what each control does. */
"use strict";

const store = new Store();
const runs = new Map(); /* conversation id -> its answer under way: {chat, message, abort, start, painter, savedAt} */
const views = new Map(); /* message id -> MessageView, of the open conversation */
const server = {models: [], tries: 0, timer: 0};
let chat = newChat(store.get("settings"), store.get("model", ""));

/* ------------------------------------------------------------------ storing */

/* A conversation is stored when there is something in it. */
function keep(kept = chat) {
  if (!kept.draft.trim() && !kept.head) return store.remove(kept);
  if (store.save(kept)) return;
  notify("The browser's storage is full: this conversation lives only as long as this tab. Export it, or delete others.",
    "Export", () => exportChat("json", [kept]));
}

/* Unless it was deleted while the answer came. */
function keepRun(run) {
  if (store.chats.has(run.chat.id)) keep(run.chat);
}

function exportChat(kind, chats) {
  const title = chats.length > 1 ? "conversations" : chats[0].title || "conversation";
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50);
  if (kind === "json") download(name + ".json", "application/json", exportJson(chats));
  else download(name + ".md", "text/markdown", exportMarkdown(chats[0]));
}

async function importFile(file) {
  try {
    const chats = importJson(await file.text());
    for (const c of chats) keep(c);
    openChat(chats[0]);
    announce(`${chats.length} imported`);
  } catch (error) {
    notify(error.message);
  }
}

/* Another tab has changed a conversation. One that is being answered here takes what is new there, and keeps its own. */
function onStorage(event) {
  if (!event.key?.startsWith("sluice.chat.")) return;
  const id = event.key.slice(12);
  const changed = readChat(parseJson(event.newValue));
  const running = runs.get(id)?.chat;
  if (running) {
    running.messages = Object.assign(changed?.messages ?? Object.create(null), running.messages);
  } else if (id === chat.id && changed) {
    Object.assign(chat, changed, {draft: chat.draft, settings: chat.settings});
    show();
  } else if (id === chat.id) {
    openChat({...newChat(chat.settings, chat.model), draft: chat.draft});
  } else if (changed) {
    store.chats.set(id, changed);
  } else {
    store.chats.delete(id);
  }
  showList();
}

/* ------------------------------------------------------------------ showing */

function openChat(next) {
  chat = next;
  sessionStorage.setItem("sluice.open", chat.id); /* where a reload of this tab comes back to */
  views.clear();
  $("log").replaceChildren();
  $("input").value = chat.draft;
  if ($("sidebar").matches(":popover-open")) $("sidebar").hidePopover();
  fitHeight($("input"));
  showModels();
  show();
  follow(true);
  focusInput();
}

/* Where there is a keyboard; on a phone it would open one. */
function focusInput() {
  if (matchMedia("(hover: hover)").matches) $("input").focus();
}

function startNew() {
  if (!chat.head) return $("input").focus();
  openChat(newChat(store.get("settings"), chat.model));
}

/* Brings the page in line with the conversation; what is already there stays. */
function show() {
  const path = pathOf(chat);
  const run = runs.get(chat.id);
  let at = $("log").firstChild;
  path.forEach((message, i) => {
    if (!views.has(message.id)) views.set(message.id, new MessageView(message, actions));
    const view = views.get(message.id);
    const isRunning = run?.message === message;
    view.update(message, siblingsOf(chat, message), {isRunning, hasResults: path[i + 1]?.role === "tool"});
    if (view.node === at) at = at.nextSibling;
    else $("log").insertBefore(view.node, at);
  });
  while (at) {
    const rest = at;
    at = at.nextSibling;
    rest.remove();
  }
  $("empty").hidden = path.length > 0;
  $("title").value = chat.title;
  document.title = chat.title ? `${chat.title} – sluice` : "sluice";
  $("send").hidden = !!run;
  $("stop").hidden = !run;
  showContext(path);
  showList();
}

function showContext(path = pathOf(chat)) {
  const stats = path.findLast((m) => m.stats?.prompt_tokens)?.stats;
  const most = server.models.find((m) => m.id === chat.model)?.max_model_len;
  const used = stats ? stats.prompt_tokens + (stats.completion_tokens ?? 0) : 0;
  $("context").textContent = used ? `${number(used)}${most ? ` of ${number(most)}` : ""} tokens` : "";
  $("context").classList.toggle("bad", used > 0.9 * most);
}

function dayOf(time) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / 86400000);
  return days < 1 ? "Today" : days < 2 ? "Yesterday" : days < 7 ? "This week" : "Earlier";
}

function showList() {
  const rows = [];
  let day = "";
  for (const c of store.list()) {
    if (dayOf(c.updated) !== day) rows.push(el("li.day", {}, (day = dayOf(c.updated))));
    const [running, current] = [runs.has(c.id) && "running", c.id === chat.id && "true"];
    rows.push(el("li", {}, el("button", {type: "button", class: running, "aria-current": current, onclick: () => openChat(c)},
      c.title || c.draft.trim().slice(0, 60) || "New conversation")));
  }
  $("chats").replaceChildren(...rows);
}

/* ------------------------------------------------------------------ scrolling */

/* The page follows an answer while its end is in view, and never pulls a reader who has scrolled up: where an answer
 * grows or ends, follow() is called within a frame, which begins with the scroll events of what the reader did. */
let isFollowing = true;

function follow(always) {
  if (always) isFollowing = true;
  if (isFollowing) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function onScroll() {
  const {scrollTop, scrollHeight, clientHeight} = $("scroll");
  isFollowing = scrollHeight - scrollTop - clientHeight < 60;
  $("latest").hidden = isFollowing;
}

/* ------------------------------------------------------------------ answering */

async function answer(parent) {
  const run = {chat, abort: new AbortController(), start: performance.now(), savedAt: performance.now()};
  run.message = addMessage(chat, parent, {role: "assistant", model: chat.model, stats: {}});
  run.painter = new Painter(() => paint(run));
  runs.set(chat.id, run);
  unnotify();
  show();
  follow(true);
  focusInput();
  announce("Answering");
  const clock = setInterval(() => run.painter.request(), 1000); /* while the first token is waited for */
  try {
    for await (const chunk of streamChat(requestOf(run.chat, parent), run.abort.signal)) take(run, chunk);
    announce(`Answer complete, ${figuresOf(run.message, false)}`);
  } catch (error) {
    fail(run, error);
  }
  clearInterval(clock);
  runs.delete(run.chat.id);
  run.chat.updated = Date.now();
  keepRun(run);
  if (run.chat === chat) show();
  else showList();
  requestAnimationFrame(() => follow());
}

/* What has arrived stays, whatever happens. */
function fail(run, error) {
  if (error.kind === "stop") {
    run.message.finish = "stopped";
    return announce("Stopped");
  }
  run.message.error = {message: error.message, needsKey: !!error.needsKey};
  if (!(error instanceof ApiError)) console.error(error);
  if (error.isPassing) connect();
}

/* One chunk into the message. Its usage counts are exact at each step; the times are this page's own clock. */
function take(run, chunk) {
  const {message} = run;
  const {delta = {}, finish_reason} = chunk.choices?.find((c) => c.index === 0) ?? {};
  const now = performance.now() - run.start;
  const thought = delta.reasoning_content ?? delta.reasoning;
  const {stats} = message;
  if (thought) message.reasoning = (message.reasoning ?? "") + thought;
  if (delta.content) {
    if (message.reasoning && !message.content) stats.thought_ms = now;
    message.content += delta.content;
  }
  for (const part of delta.tool_calls ?? []) addCallPart(message, part);
  if (thought || delta.content || delta.tool_calls?.length) {
    stats.first_ms ??= now;
    stats.total_ms = now;
  }
  if (finish_reason) message.finish = finish_reason;
  if (chunk.usage) {
    stats.completion_tokens = chunk.usage.completion_tokens;
    stats.prompt_tokens = chunk.usage.prompt_tokens;
    stats.cached_tokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
    stats.first_ms ??= now;
    stats.total_ms ??= now;
  }
  run.painter.request();
}

function addCallPart(message, part) {
  message.tool_calls ??= [];
  const call = (message.tool_calls[part.index ?? 0] ??= {id: "", type: "function", function: {name: "", arguments: ""}});
  call.id ||= part.id ?? "";
  call.function.name ||= part.function?.name ?? "";
  call.function.arguments += part.function?.arguments ?? "";
}

function paint(run) {
  if (runs.get(run.chat.id) === run && run.chat === chat) {
    views.get(run.message.id)?.update(run.message, siblingsOf(chat, run.message), {isRunning: true});
    follow();
  }
  if (performance.now() - run.savedAt > 3000) {
    run.savedAt = performance.now();
    keepRun(run);
  }
}

function send() {
  const text = $("input").value;
  if (!text.trim() || runs.has(chat.id)) return;
  const message = addMessage(chat, chat.head, {role: "user", content: text});
  $("input").value = chat.draft = "";
  fitHeight($("input"));
  keep();
  answer(message.id);
}

/* What the buttons of a message do. Each leaves other versions as they are. */
const actions = {
  again(message) {
    if (runs.has(chat.id)) return;
    if (message.error && !message.content && !message.reasoning) removeMessage(chat, message); /* nothing to keep */
    answer(message.parent);
  },
  edit(message, content) {
    if (runs.has(chat.id)) return;
    const edited = addMessage(chat, message.parent, {role: message.role, content});
    keep();
    if (message.role === "user") answer(edited.id);
    else show();
  },
  remove(message) {
    if (runs.has(chat.id)) return;
    const from = chat;
    const undo = removeMessage(chat, message);
    keep();
    show();
    notify("Deleted.", "Undo", () => { undo(); keep(from); openChat(from); });
  },
  go(message) {
    chat.head = tipOf(chat, message.id);
    keep();
    show();
    views.get(message.id).node.scrollIntoView({block: "nearest"});
  },
  answerCalls(message, results) {
    if (runs.has(chat.id)) return;
    let parent = message.id;
    message.tool_calls.forEach((call, i) => {
      parent = addMessage(chat, parent, {role: "tool", content: results[i], tool_call_id: call.id}).id;
    });
    answer(parent);
  },
  openKey: () => openSettings(chat, "key"),
};

/* ------------------------------------------------------------------ the server */

function setServer(state, text) {
  $("server").dataset.state = state;
  $("server").textContent = text;
}

/* The model list, which also says how the server is. Asked again every half minute; sooner while it is not well. */
async function connect() {
  clearTimeout(server.timer);
  server.timer = 0;
  let wait = 30000; /* 0: until something changes */
  try {
    server.models = await fetchModels();
    server.tries = 0;
    setServer("ready", "Connected");
    showModels();
  } catch (error) {
    wait = Math.min(30000, 1000 * 2 ** Math.min(server.tries++, 5));
    const words = {model_loading: "Loading the model", server_draining: "Shutting down", 401: "Needs an API key",
      0: "Not reachable"};
    setServer(error.code === "model_loading" ? "wait" : "bad", words[error.code] ?? words[error.status] ?? "Not ready");
    $("about").textContent = error.message;
    if (error.needsKey) {
      wait = 0;
      notify(error.message, "Set the key", actions.openKey);
    }
  }
  if (wait) server.timer = setTimeout(() => (document.hidden ? (server.timer = 0) : connect()), wait);
}

function showModels() {
  const names = server.models.map((m) => m.id);
  if (names.length && !names.includes(chat.model)) chat.model = names[0];
  const shown = names.length ? names : [chat.model || "No model yet"];
  $("model").replaceChildren(...shown.map((name) => el("option", {value: name, selected: name === chat.model}, name)));
  $("model").disabled = shown.length < 2;
  const most = server.models.find((m) => m.id === chat.model)?.max_model_len;
  if (names.length) $("about").textContent = chat.model + (most ? `, ${number(most)} tokens of context` : "");
  showContext();
}

/* ------------------------------------------------------------------ controls */

function onInput() {
  fitHeight($("input"));
  chat.draft = $("input").value;
  clearTimeout(onInput.timer);
  const kept = chat;
  onInput.timer = setTimeout(() => { keep(kept); showList(); }, 400);
}

/* On a phone Enter begins a line, as everywhere there. */
function onKey(event) {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey && !matchMedia("(pointer: coarse)").matches) {
    event.preventDefault();
    send();
  }
  if (event.key === "ArrowUp" && !$("input").value && !runs.has(chat.id)) {
    const last = pathOf(chat).findLast((m) => m.role === "user");
    if (last) { event.preventDefault(); views.get(last.id).edit(); }
  }
}

function stop() {
  if (!runs.has(chat.id)) return;
  runs.get(chat.id).abort.abort();
  focusInput();
}

function deleteChat() {
  const gone = chat;
  if (!gone.head) return;
  runs.get(gone.id)?.abort.abort();
  store.remove(gone);
  openChat(newChat(store.get("settings"), gone.model));
  notify(`Deleted “${gone.title}”.`, "Undo", () => { keep(gone); openChat(gone); });
}

function bindControls() {
  $("composer").onsubmit = (event) => { event.preventDefault(); send(); };
  $("input").oninput = onInput;
  $("input").onkeydown = onKey;
  $("stop").onclick = stop;
  $("new").onclick = startNew;
  $("latest").onclick = () => follow(true);
  $("scroll").onscroll = onScroll;
  new ResizeObserver(() => follow()).observe($("scroll")); /* the message field grows, or a keyboard opens */
  $("title").onchange = () => { chat.title = $("title").value.trim(); keep(); show(); };
  $("title").onkeydown = (event) => { if (event.key === "Enter") $("title").blur(); };
  $("model").onchange = () => { chat.model = $("model").value; store.set("model", chat.model); keep(); showModels(); };
  $("theme").onclick = () => store.set("theme", theme.next());
  const inMenu = (id, run) => { $(id).onclick = () => { $("more").hidePopover(); run(); }; };
  inMenu("export-markdown", () => exportChat("markdown", [chat]));
  inMenu("export-json", () => exportChat("json", [chat]));
  inMenu("export-all", () => exportChat("json", store.list()));
  inMenu("import", () => $("import-file").click());
  inMenu("delete-chat", deleteChat);
  $("import-file").onchange = async () => { await importFile($("import-file").files[0]); $("import-file").value = ""; };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("settings").open && !document.querySelector(":popover-open")) stop();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !server.timer) connect(); });
  addEventListener("storage", onStorage);
  addEventListener("pagehide", () => { for (const run of runs.values()) keepRun(run); keep(); });
  initSettings(() => chat, () => { store.set("settings", chat.settings); keep(); }, connect);
}

theme.set(store.get("theme", "auto"));
bindControls();
openChat(store.chats.get(sessionStorage.getItem("sluice.open")) ?? chat);
connect();
