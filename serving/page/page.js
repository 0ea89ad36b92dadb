/* The page: a picture goes to the service, and its result comes back beside it. */
import { address, describe, restore } from "./service.js";
import { clearPictures, showOriginal, showRestored, sizes } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const KEY = "keygraph-api-key";
/** How long the dial rests before its value counts, in milliseconds. */
const REST = 250;
const SUFFIXES = { "image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp", "image/tiff": ".tif" };

let model = null;
let latest = 0; // counts what was given, since a large file is read more slowly than the next, small one
let picture = null; // the file, read into memory: it may change on the disk
let visible = false; // whether the browser can show the picture
let result = null;
let running = null; // the AbortController of the request on its way
let asked = null; // what waits for an API key

/* --- What the page says --- */

function say(text) {
  byId("status").textContent = text;
}

function complain(error, retry = null) {
  byId("error-text").textContent = error.message;
  byId("error").hidden = false;
  byId("again").hidden = retry === null;
  byId("again").onclick = retry;
}

function appease() {
  byId("error").hidden = true;
}

function note(notices) {
  byId("notices").replaceChildren(...notices.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  byId("notices").hidden = notices.length === 0;
}

const seconds = (value) => `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value)} s`;
const size = ({ width, height }) => `${width} × ${height}`;
const bytes = (count) => (count >= 2 ** 20 ? `${Number((count / 2 ** 20).toPrecision(3))} MiB` : `${Math.ceil(count / 1024)} KiB`);

/* --- The model --- */

async function start() {
  appease();
  try {
    model = await describe(sessionStorage.getItem(KEY));
  } catch (error) {
    if (error.status === 401) return askForKey(error, start);
    return complain(error, start);
  }
  const { name, architecture, task, scale, in_channels: channels, limits, provider } = model;
  byId("model").textContent = name;
  document.title = `${name} · keygraph serve`;
  const what = [architecture, task && `for ${task}`, scale > 1 && `enlarges ${scale} times`].filter(Boolean).join(" ");
  const most = limits && `pictures of at most ${bytes(limits.bytes)} and ${Number((limits.pixels / 1e6).toPrecision(3))} megapixels`;
  byId("about").textContent = [what, channels !== 3 && `channels: ${channels}`, provider, most].filter(Boolean).join(" · ");
  dial(model.k);
  if (model.needs_api_key && !sessionStorage.getItem(KEY)) askForKey(null, null);
  return undefined;
}

function dial(k) {
  byId("k-dial").hidden = !k || k.smallest === k.largest;
  if (!k) return;
  for (const input of [byId("k"), byId("k-number")]) Object.assign(input, { min: k.smallest, max: k.largest, step: 1, value: k.default });
  byId("k-hint").textContent = `${k.smallest} to ${k.largest}, normally ${k.default}; fewer are faster.`;
}

const chosenK = () => (model?.k ? Number(byId("k").value) : null);

/* --- The API key --- */

function askForKey(error, then) {
  asked = then;
  byId("key-form").hidden = false;
  if (error && sessionStorage.getItem(KEY)) complain(error);
  sessionStorage.removeItem(KEY);
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  byId("key").value = "";
  byId("key-form").hidden = true;
  appease();
  byId("file").focus();
  asked?.();
  asked = null;
});

/* --- A picture --- */

async function take(files) {
  if (files.length === 0) return complain(new Error("There is no file in it: drop, paste or choose a picture's file."));
  const turn = (latest += 1);
  cancel();
  appease();
  let read;
  try {
    read = new File([await files[0].arrayBuffer()], files[0].name, { type: files[0].type });
  } catch {
    return complain(new Error(`${files[0].name} cannot be read: folders and files that were moved cannot be sent.`));
  }
  if (turn !== latest) return undefined;
  if (model?.limits && read.size > model.limits.bytes) {
    return complain(new Error(`${read.name} has ${bytes(read.size)}; the service takes at most ${bytes(model.limits.bytes)}.`));
  }
  picture = read;
  result = null;
  note([]);
  for (const id of ["facts", "download", "download-own"]) byId(id).hidden = true;
  const shown = await showOriginal(picture);
  if (turn !== latest) return undefined;
  visible = shown;
  byId("controls").hidden = false;
  byId("viewer").hidden = !visible;
  if (!byId("drop").hidden) byId("other").focus({ preventScroll: true }); // what had the focus is about to go
  byId("drop").hidden = true;
  return run(files.length > 1 ? [`${files.length} files were given; this is the first, ${read.name}.`] : []);
}

function another() {
  latest += 1;
  cancel();
  appease();
  note([]);
  say("");
  picture = result = null;
  clearPictures();
  for (const id of ["viewer", "controls", "facts", "shell"]) byId(id).hidden = true;
  byId("drop").hidden = false;
  byId("file").value = "";
  byId("file").focus();
}

/* --- A request --- */

function cancel() {
  running?.abort();
  running = null;
  busy(false);
}

function busy(on) {
  clearInterval(busy.clock);
  byId("progress").hidden = byId("stop").hidden = !on;
  byId("viewer").setAttribute("aria-busy", on);
  byId("elapsed").textContent = "";
  if (!on) return;
  const started = performance.now();
  busy.clock = setInterval(() => { byId("elapsed").textContent = `${Math.floor((performance.now() - started) / 1000)} s`; }, 1000);
}

/** Send the picture; what was on its way is cancelled. Resolves with the answer, or null. */
async function send(options, retry) {
  cancel();
  appease();
  if (model?.needs_api_key && !sessionStorage.getItem(KEY)) {
    say("The API key is needed first.");
    askForKey(null, retry);
    return null;
  }
  const controller = running = new AbortController();
  busy(true);
  try {
    return await restore(picture, options, sessionStorage.getItem(KEY), controller.signal);
  } catch (error) {
    if (running !== controller) return null; // cancelled: another request or picture has taken its place
    say("");
    if (error.status === 401) askForKey(error, retry);
    else complain(error, isFinal(error) ? null : retry);
    return null;
  } finally {
    if (running === controller) cancel();
  }
}

/** Whether the same request would fail again. */
const isFinal = ({ status }) => status >= 400 && status < 500 && status !== 408 && status !== 429;

/** Restore the picture with the chosen k, and show the result. */
async function run(said = []) {
  if (picture === null) return;
  const given = picture, k = chosenK(), started = performance.now();
  say(`Restoring ${given.name}${k === null ? "" : ` with k = ${k}`} …`);
  byId("command").textContent = command(given, k);
  byId("shell").hidden = false;
  const answer = await send({ k, format: visible ? null : "png" }, () => run(said));
  if (answer === null || picture !== given) return;
  const took = (performance.now() - started) / 1000;
  result = answer.file;
  const shown = await showRestored(result);
  if (picture !== given) return;
  byId("viewer").hidden = !shown && !visible;
  note([...said, ...explained(shown), ...answer.notices]);
  const { original, restored } = sizes();
  const extent = [...new Set([original, restored].filter(Boolean).map(size))].join(" → ");
  byId("facts").textContent = [given.name, extent && `${extent} pixels`, k !== null && `k ${k}`, `${seconds(answer.seconds)} in the service, ${seconds(took)} in all`]
    .filter(Boolean).join(" · ");
  byId("facts").hidden = byId("download").hidden = false;
  byId("download").textContent = `Download ${label(result)}`;
  byId("download-own").hidden = visible || !isTiff(given);
  say(`Restored in ${seconds(took)}.`);
}

/** What is said where the browser cannot show everything. */
function explained(shown) {
  if (!shown) return ["This browser cannot show the result. Download it to see it."];
  if (visible) return [];
  const own = isTiff(picture) ? " Download TIFF restores it once more, into a TIFF." : "";
  return [`This browser cannot show ${picture.name}, so the original is missing here. The result is shown as PNG.${own}`];
}

/* --- Files --- */

const isTiff = (file) => file.type === "image/tiff" || /\.tiff?$/i.test(file.name);
const label = (file) => (SUFFIXES[file.type] ?? "").slice(1).toUpperCase().replace("JPG", "JPEG").replace(/^TIF$/, "TIFF");

function save(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = restoredName(file);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function restoredName(file) {
  const suffix = SUFFIXES[file?.type] ?? /\.[^.]+$/.exec(picture.name)?.[0] ?? "";
  return `${picture.name.replace(/\.[^.]+$/, "")}-restored${suffix}`;
}

async function downloadOwn() {
  const given = picture;
  say(`Restoring ${given.name} into a TIFF …`);
  const answer = await send({ k: chosenK(), format: null }, downloadOwn);
  if (answer === null || picture !== given) return;
  say("Restored; the download begins.");
  save(answer.file);
}

/** The request as a line for a shell. */
function command(file, k) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = model?.needs_api_key ? ' -H "Authorization: Bearer $KEYGRAPH_API_KEY"' : "";
  return `curl --fail-with-body${key} -F ${quoted(`image=@"${file.name}"`)} -o ${quoted(restoredName(file))} ${quoted(new URL(address(k), document.baseURI).href)}`;
}

/* --- Events --- */

let resting = 0;

function turn(from, to) {
  const { smallest, largest } = model.k;
  const value = Math.round(Number(from.value));
  if (from.value === "" || value < smallest || value > largest) return; // being typed: `settle` says what becomes of it
  to.value = value;
  clearTimeout(resting);
  resting = setTimeout(run, REST);
}

/** Return to the last valid k when an invalid one is left in the field. */
function settle() {
  const { smallest, largest } = model.k;
  const left = byId("k-number").value, valid = byId("k").value;
  byId("k-number").value = valid;
  if (left !== valid) say(`k goes from ${smallest} to ${largest}, in whole numbers; it is ${valid} as before.`);
}

byId("k").addEventListener("input", () => turn(byId("k"), byId("k-number")));
byId("k-number").addEventListener("input", () => turn(byId("k-number"), byId("k")));
byId("k-number").addEventListener("change", settle);
byId("file").addEventListener("change", () => byId("file").files.length && take(byId("file").files));
byId("other").addEventListener("click", another);
byId("stop").addEventListener("click", () => {
  cancel();
  say("Stopped.");
});
byId("download").addEventListener("click", () => save(result));
byId("download-own").addEventListener("click", downloadOwn);

document.addEventListener("paste", ({ clipboardData, target }) => {
  if (clipboardData.files.length) take(clipboardData.files);
  else if (!target.matches?.("input")) complain(new Error("There is no picture in the clipboard."));
});

let over = 0; // elements under the pointer that it entered with a file
const veil = (on) => { byId("veil").hidden = !on; };
document.addEventListener("dragenter", (event) => { over += 1; event.preventDefault(); veil(event.dataTransfer.types.includes("Files")); });
document.addEventListener("dragleave", () => { over -= 1; if (over <= 0) { over = 0; veil(false); } });
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over = 0;
  veil(false);
  take(event.dataTransfer.files);
});

start();
