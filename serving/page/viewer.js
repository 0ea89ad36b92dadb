/* The original and the restored picture in one pane, divided by a range input. */

const byId = (id) => document.getElementById(id);
const pane = byId("pane"), stage = byId("stage"), sized = byId("sized"), split = byId("split");
const before = byId("before"), after = byId("after");

/** How much a small picture is enlarged at most, to fill the pane. */
const LARGEST = 4;
const FIT = "fit";

const turns = { before: 0, after: 0 };
let zoom = FIT;

/** Show the original; false if the browser cannot decode it. */
export async function showOriginal(picture) {
  clear(after);
  return put(before, picture);
}

/** Show the result over the original, or alone; false if the browser cannot decode it. */
export async function showRestored(picture) {
  return put(after, picture);
}

/** Forget both pictures. */
export function clearPictures() {
  clear(before);
  clear(after);
}

/** Width and height of what is shown, in pixels of the picture. */
export function sizes() {
  const size = (image) => (image.hidden ? null : { width: image.naturalWidth, height: image.naturalHeight });
  return { original: size(before), restored: size(after) };
}

function clear(image) {
  image.hidden = true;
  if (image.src) URL.revokeObjectURL(image.src);
  image.removeAttribute("src");
}

async function put(image, picture) {
  const turn = (turns[image.id] += 1);
  const loaded = new Image();
  loaded.src = URL.createObjectURL(picture);
  try {
    await loaded.decode();
  } catch {
    URL.revokeObjectURL(loaded.src);
    if (turn === turns[image.id]) clear(image);
    return false;
  }
  if (turn !== turns[image.id]) { // another picture has taken its place
    URL.revokeObjectURL(loaded.src);
    return false;
  }
  clear(image);
  image.src = loaded.src;
  await image.decode();
  image.hidden = false;
  place();
  return true;
}

/** Give both pictures the size at which they are displayed, and divide them. */
function place() {
  const shown = after.hidden ? before : after;
  pane.classList.toggle("alone", before.hidden || after.hidden);
  pane.classList.toggle("fit", zoom === FIT);
  stage.tabIndex = zoom === FIT ? -1 : 0;
  if (shown.hidden) return;
  // Pixels of the screen, of which one CSS pixel may have several.
  const pixel = 1 / devicePixelRatio;
  const highest = parseFloat(getComputedStyle(stage).maxHeight);
  const fitting = Math.min(pane.clientWidth / shown.naturalWidth, highest / shown.naturalHeight, LARGEST);
  const scale = zoom === FIT ? fitting : zoom * pixel;
  sized.style.width = `${Math.max(1, shown.naturalWidth * scale)}px`;
  sized.style.height = `${Math.max(1, shown.naturalHeight * scale)}px`;
  sized.classList.toggle("enlarged", zoom !== FIT && zoom > 1); // a size that is chosen shows the pixels as they are
  divide();
}

/** Cut the original where the range input stands, within the part of the picture that is visible. */
function divide() {
  const share = split.value / 100;
  const width = sized.offsetWidth, visible = Math.min(width, stage.clientWidth);
  const from = (stage.clientWidth - visible) / 2, cut = stage.scrollLeft + share * visible;
  before.style.clipPath = pane.classList.contains("alone") ? "" : `inset(0 ${width - cut}px 0 0)`;
  pane.style.setProperty("--from", `${from}px`);
  pane.style.setProperty("--wide", `${visible}px`);
  pane.style.setProperty("--bar", `${stage.offsetHeight - stage.clientHeight}px`);
  pane.style.setProperty("--share", share);
  split.setAttribute("aria-valuetext", `${Math.round(100 * share)} % original`);
}

/** Pull the enlarged picture with the mouse; fingers and keys scroll it anyway. */
function pull() {
  let last = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0 || zoom === FIT) return;
    last = [event.clientX, event.clientY];
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.addEventListener("pointermove", (event) => {
    if (last === null) return;
    stage.scrollBy(last[0] - event.clientX, last[1] - event.clientY);
    last = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { last = null; });
}

split.addEventListener("input", divide);
stage.addEventListener("scroll", divide);
new ResizeObserver(place).observe(pane);
addEventListener("resize", place);
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => {
    zoom = button.dataset.zoom === FIT ? FIT : Number(button.dataset.zoom);
    for (const other of document.querySelectorAll("[data-zoom]")) other.setAttribute("aria-pressed", other === button);
    place();
  });
}
pull();
