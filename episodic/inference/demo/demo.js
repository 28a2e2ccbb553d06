"use strict";
const TEXT = MODEL.kind !== "image", ENCODED = Boolean(MODEL.encoder), DRAWN = !TEXT && !ENCODED && MODEL.input[0] === 1;
const QUERIES = TEXT ? "sentences" : "images";
const SIDE = 280, PEN = SIDE / MODEL.input[1] * 1.9;  // similar to the stroke width of the training images
const byId = id => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
let classes = [], model = null, detects = false, requests = 0;

byId("about").textContent = (MODEL.head ? `Encoder ${MODEL.encoder} with the head ${MODEL.head}. ` : `Trained with ${MODEL.algorithm} on ${MODEL.dataset}. `) +
  (MODEL.transductive ? `Answers depend on the ${QUERIES} that are asked together (transductive inference). ` : "") +
  (MODEL.anyWays ? "It adapts to any number of classes." : `It adapts to exactly ${MODEL.ways} classes.`);
byId("how").textContent = TEXT ? "One sentence per line, a few per class."
  : DRAWN ? "Draw an example, or drop image files on a class. One example per class is enough; more are better." : "Drop a few image files on each class, or choose files.";
if (ENCODED) {
  document.body.classList.add("photographs");
  byId("adapted").textContent = "A head is fitted to the encoder's features of your images. Nothing is trained.";
  byId("ask").lastChild.textContent = " Classify new images";
}
if (!TEXT && !ENCODED) document.body.classList.add("drawn");
byId("shapes").hidden = !DRAWN;
byId("more").hidden = !MODEL.anyWays;

/* A canvas to draw on; `changed` is called after every stroke. */
function drawingPad(label, changed) {
  const canvas = make("canvas", { width: SIDE, height: SIDE, tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  const context = canvas.getContext("2d");
  const wipe = () => { context.fillStyle = "#fff"; context.fillRect(0, 0, SIDE, SIDE); canvas.inked = false; };
  wipe();
  Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#000" });
  const at = event => [event.offsetX * SIDE / canvas.clientWidth, event.offsetY * SIDE / canvas.clientHeight];
  let drawing = false;
  const line = event => { context.lineTo(...at(event)); context.stroke(); canvas.inked = true; };
  canvas.addEventListener("pointerdown", event => {
    drawing = true;
    canvas.setPointerCapture(event.pointerId);
    context.beginPath();
    context.moveTo(...at(event));
    line(event);
  });
  canvas.addEventListener("pointermove", event => drawing && line(event));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { if (drawing) { drawing = false; changed(); } });
  canvas.wipe = wipe;
  canvas.toImage = () => canvas.toDataURL("image/png");
  canvas.polyline = points => {
    wipe();
    context.beginPath();
    points.forEach(([x, y], i) => i ? context.lineTo(x * SIDE, y * SIDE) : context.moveTo(x * SIDE, y * SIDE));
    context.stroke();
    canvas.inked = true;
    changed();
  };
  return canvas;
}

/* Calls `take` with the data URLs of the image files that are dropped on `place` or selected with the returned button, and `refuse` with a sentence about other files. */
function files(place, label, take, refuse) {
  const field = make("input", { type: "file", multiple: true, accept: "image/*", className: "visually-hidden" });
  const read = async list => {
    const all = [...list], urls = await Promise.all(all.map(readImage)), images = urls.filter(Boolean);
    const others = all.filter((_, i) => !urls[i]).map(file => file.name).join(", ");
    if (images.length) take(images);
    if (others) refuse(`Not readable as images: ${others}. Use JPEG or PNG files.`);
  };
  field.addEventListener("change", () => { read(field.files); field.value = ""; });
  place.addEventListener("dragover", event => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", event => { event.preventDefault(); place.classList.remove("over"); read(event.dataTransfer.files); });
  const button = make("button", { type: "button", className: "small", textContent: "Files…", onclick: () => field.click() });
  button.setAttribute("aria-label", label);
  return [button, field, ...camera(label, take)];
}

/* The data URL of an image file, or null if the browser cannot read it. TIFF files are left to the server. */
async function readImage(file) {
  if (!file.type.startsWith("image/")) return null;
  const url = await new Promise(done => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(file); });
  if (file.type === "image/tiff") return url;
  const image = new Image();
  image.src = url;
  try { await image.decode(); } catch { return null; }
  return ENCODED ? shrink(image, image.naturalWidth, image.naturalHeight) : url;
}

/* A smaller copy of a photograph, so that many fit into a request. */
function shrink(source, width, height) {
  const scale = MODEL.shorter / Math.min(width, height);
  if (source.src && scale >= 1) return source.src;
  const canvas = make("canvas", { width: Math.round(width * Math.min(1, scale)), height: Math.round(height * Math.min(1, scale)) });
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", .92);
}

/* A button that takes photographs, where the model takes them and the browser offers a camera. */
function camera(label, take) {
  if (!ENCODED || !navigator.mediaDevices) return [];
  const button = make("button", { type: "button", className: "small", textContent: "Camera…" });
  button.setAttribute("aria-label", label.replace(/image files?/, "photograph"));
  button.addEventListener("click", async () => {
    const dialog = make("dialog"), video = make("video", { autoplay: true, muted: true, playsInline: true });
    let stream = null;
    const shoot = make("button", { type: "button", className: "main", textContent: "Take photograph", disabled: true, onclick: () => take([shrink(video, video.videoWidth, video.videoHeight)]) });
    const close = make("button", { type: "button", textContent: "Done", onclick: () => dialog.close() });
    const status = make("p", { className: "note" });
    dialog.append(video, status, make("p", { className: "row" }, shoot, close));
    dialog.addEventListener("close", () => { if (stream) stream.getTracks().forEach(track => track.stop()); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      video.addEventListener("loadeddata", () => { shoot.disabled = false; });
    } catch (error) {
      status.textContent = `The camera cannot be used (${error.message}).`;
      status.className = "error";
    }
  });
  return [button];
}

function addClass() {
  const number = classes.length + 1, card = make("div", { className: "class" });
  const name = make("input", { value: `class ${number}`, maxLength: 100 });
  name.setAttribute("aria-label", `name of class ${number}`);
  name.addEventListener("input", stale);
  const entry = { name, card };
  if (TEXT) {
    const box = make("textarea", { rows: 4, placeholder: "One sentence per line" });
    box.setAttribute("aria-label", `examples of class ${number}`);
    box.addEventListener("input", stale);
    entry.examples = () => box.value.split("\n").map(line => line.trim()).filter(Boolean);
    entry.wipe = () => { box.value = ""; };
    entry.add = sentence => { box.value = [...entry.examples(), sentence].join("\n"); stale(); };
    entry.drop = sentence => { box.value = entry.examples().filter(line => line !== sentence).join("\n"); };
    card.append(name, box);
  } else {
    const shown = make("div", { className: "kept" });
    let kept = [];
    const draw = () => shown.replaceChildren(...kept.map((image, i) => {
      const button = make("button", { type: "button", title: "Remove", onclick: () => { kept.splice(i, 1); draw(); stale(); } }, make("img", { src: image, alt: `example ${i + 1}` }));
      return button;
    }));
    const keep = images => { kept.push(...images); draw(); stale(); };
    const tools = make("div", { className: "tools" });
    card.append(name);
    if (DRAWN) {
      const canvas = entry.canvas = drawingPad(`drawing of class ${number}`, stale);
      tools.append(
        make("button", { type: "button", className: "small", textContent: "Draw another", onclick: () => { if (canvas.inked) { keep([canvas.toImage()]); canvas.wipe(); } } }),
        make("button", { type: "button", className: "small", textContent: "Erase", onclick: () => { canvas.wipe(); stale(); } }));
      card.append(canvas);
    }
    tools.append(...files(card, `image files for class ${number}`, keep, message => report(message, true)));
    card.append(shown, tools);
    entry.examples = () => [...kept, ...(entry.canvas && entry.canvas.inked ? [entry.canvas.toImage()] : [])];
    entry.wipe = () => { kept = []; draw(); if (entry.canvas) entry.canvas.wipe(); };
    entry.add = image => keep([image]);
    entry.drop = image => { kept = kept.filter(other => other !== image); draw(); };
  }
  classes.push(entry);
  byId("classes").append(card);
  byId("more").disabled = classes.length >= MODEL.maxClasses;
}

function report(message, isError = false) {
  Object.assign(byId("adapted"), { textContent: message, className: isError ? "error" : "" });
}

/* Says what the adapted model cannot do. */
function limit(message) {
  Object.assign(byId("limits"), { textContent: message, hidden: !message });
}

/* Reports that the examples have changed since the model was adapted, and drops an earlier error. */
function stale() {
  report(model ? "The examples have changed. Adapt again." : "");
}

async function post(path, content) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
  } catch {
    throw new Error("The server does not respond. Is it still running?");
  }
  const result = await response.json();
  if (!response.ok) throw new Error(typeof result.detail === "string" ? result.detail : result.detail.map(error => error.msg).join("; "));
  return result;
}

async function adapt() {
  const support = new Map();
  try {
    for (const entry of classes) {
      const name = entry.name.value.trim(), examples = entry.examples();
      if (!examples.length && MODEL.anyWays) continue;
      if (!name) throw new Error("Name every class.");
      if (!examples.length) throw new Error(`${name} has no examples yet.`);
      if (support.has(name)) throw new Error(`Two classes are named ${name}.`);
      support.set(name, examples);
    }
    if (support.size < 2) throw new Error("Add examples of at least two classes.");
    byId("adapt").disabled = true;
    const start = performance.now(), adapted = await post("/adapt", { classes: Object.fromEntries(support) });
    model = adapted.model;
    detects = adapted.unknown;
    limit(adapted.note ? `Nothing is called “${NONE}”: ${adapted.note}.` : "");
    report(`Adapted to ${adapted.classes.length} classes from ${adapted.examples} examples in ${((performance.now() - start) / 1000).toFixed(2)} s.`);
    question.enable();
    suggest();
  } catch (error) {
    report(error.message, true);
  }
  byId("adapt").disabled = false;
}

/* Classifies examples together, and shows the probabilities of one or the labels of several. */
async function predict(examples) {
  if (!model) return;
  const number = ++requests, place = byId("predictions");
  try {
    const { predictions } = await post("/predict", { model, examples, unknown: detects });
    if (number !== requests) return;  // a later request is under way
    place.replaceChildren(...(examples.length === 1 ? [...showProbabilities(predictions[0]), make("p", { className: "row" }, corrector(examples[0]))] : [showLabels(examples, predictions)]));
    if (MODEL.transductive && examples.length < Object.keys(predictions[0].probabilities).length) place.prepend(make("p", { className: "note", textContent: `Ask more ${QUERIES} together, some of each class: this method compares them with each other.` }));
  } catch (error) {
    place.replaceChildren(make("p", { className: "error", textContent: error.message }));
  }
}

const percent = p => `${(100 * p).toFixed(1)} %`;

const NONE = "none of these";
const isUnknown = prediction => !Object.hasOwn(prediction.probabilities, prediction.label);

function showProbabilities(prediction) {
  const none = isUnknown(prediction) ? [make("div", { className: "prediction none" }, make("span", { textContent: NONE }), make("span", { textContent: "unlike the examples of every class" }))] : [];
  return none.concat(Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]).map(([name, p]) => {
    const bar = make("i");
    bar.style.width = `${100 * p}%`;
    return make("div", { className: name === prediction.label ? "prediction best" : "prediction" }, make("span", { textContent: name, title: name }), make("span", { className: "track" }, bar), make("span", { textContent: percent(p) }));
  }));
}

function showLabels(images, predictions) {
  return make("ul", { className: "labels" }, ...predictions.map((prediction, i) => {
    const none = isUnknown(prediction), { label, probabilities } = prediction;
    return make("li", { className: none ? "none" : "" }, make("img", { src: images[i], alt: "" }), make("b", { textContent: none ? NONE : label }), make("span", { textContent: none ? "" : percent(probabilities[label]) }), corrector(images[i]));
  }));
}

/* A list of the classes; the chosen one gets the example, which no other class keeps.
   With the keyboard a list changes at every arrow key, so that a button confirms the choice. */
function labeller(example, prompt, label, labelled) {
  const list = make("select"), fresh = "new", confirm = make("button", { type: "button", className: "small", textContent: "OK", hidden: true });
  let pointed = false;
  list.setAttribute("aria-label", label);
  const fill = () => {  // with the names of this moment
    const chosen = list.value, names = classes.map((entry, i) => make("option", { value: i, textContent: entry.name.value.trim() || `class ${i + 1}` }));
    if (MODEL.anyWays && classes.length < MODEL.maxClasses) names.push(make("option", { value: fresh, textContent: "a new class" }));
    list.replaceChildren(make("option", { value: "", textContent: prompt }), ...names);
    list.value = chosen;
  };
  fill();
  list.addEventListener("focus", fill);
  const apply = () => {
    const isNew = list.value === fresh;
    if (isNew) addClass();
    const entry = classes.at(isNew ? -1 : Number(list.value));
    classes.forEach(other => other.drop(example));
    entry.add(example);
    if (isNew) entry.name.select();
    labelled(isNew);
  };
  list.addEventListener("pointerdown", () => { pointed = true; });
  list.addEventListener("keydown", event => {
    pointed = false;
    if (event.key === "Enter" && list.value) { event.preventDefault(); apply(); }
  });
  list.addEventListener("change", () => {
    if (pointed && list.value) apply();
    else confirm.hidden = !list.value;
  });
  confirm.setAttribute("aria-label", `confirm ${label}`);
  confirm.addEventListener("click", apply);
  return make("span", { className: "labeller" }, list, confirm);
}

/* Corrects a prediction: the example joins its class, and the model adapts again. A new class gets a name first. */
const corrector = example => labeller(example, "Wrong? It is …", "correct class", isNew => isNew ? report("Name the new class, then adapt again.") : adapt());

/* Examples without a label, of which the service suggests some. */
const SUGGESTED = 6;
let pool = [], searches = 0;

async function suggest() {
  const place = byId("suggestions"), number = ++searches, known = new Set(classes.flatMap(entry => entry.examples()));
  const open = pool.filter(example => !known.has(example)), examples = open.slice(0, MODEL.maxExamples);
  if (!examples.length) {
    place.replaceChildren(...(pool.length ? [make("p", { className: "note", textContent: `All ${QUERIES} have a label.` })] : []));
    return;
  }
  try {
    const { suggestions } = await post("/suggest", { model, examples, n: SUGGESTED });
    if (number !== searches) return;
    const note = make("p", { className: "note" }), count = () => {
      const labelled = new Set(classes.flatMap(entry => entry.examples())), left = pool.filter(example => !labelled.has(example)).length;
      note.textContent = `${place.querySelectorAll("li").length} of ${left} ${QUERIES} without a label${left > MODEL.maxExamples ? `, chosen from the first ${MODEL.maxExamples}` : ""}. ${model ? "Adapt again after labelling them." : ""}`;
    };
    const items = suggestions.map(({ index, represents, label, runner_up }) => {
      const item = make("li", {}, TEXT ? make("b", { textContent: examples[index] }) : make("img", { src: examples[index], alt: `unlabelled ${index + 1}` }),
        make("span", { textContent: label ? `${label} or ${runner_up}?` : represents > 1 ? `resembles ${represents - 1} other${represents > 2 ? "s" : ""}` : "" }),
        labeller(examples[index], "It is …", "class", () => { item.remove(); if (place.querySelector("li")) count(); else suggest(); }));
      return item;
    });
    place.replaceChildren(note, make("ul", { className: TEXT ? "labels text" : "labels" }, ...items));
    count();
  } catch (error) {
    place.replaceChildren(make("p", { className: "error", textContent: error.message }));
  }
}

const clearPool = (() => {
  let empty = () => {};
  const place = byId("pool"), extend = examples => { pool = [...new Set([...pool, ...examples])]; suggest(); };
  if (TEXT) {
    const box = make("textarea", { rows: 4, placeholder: "One sentence per line" });
    box.setAttribute("aria-label", "sentences without a label");
    box.addEventListener("change", () => { pool = []; extend(box.value.split("\n").map(line => line.trim()).filter(Boolean)); });
    empty = () => { box.value = ""; };
    place.append(box);
  } else {
    const refuse = message => byId("suggestions").prepend(make("p", { className: "error", textContent: message }));
    place.append(make("div", { className: "tools" }, ...files(place.parentElement, "image files without a label", extend, refuse)));
  }
  byId("which").textContent = TEXT ? "Enter sentences without a label. Those whose label would help most are shown, before and after adaptation." : "Drop images without a label. Those whose label would help most are shown, before and after adaptation.";
  return () => { pool = []; empty(); suggest(); };
})();

const question = (() => {
  const place = byId("question");
  let again = () => {}, empty = () => {};
  if (TEXT) {
    const field = make("input", { id: "sentence", placeholder: "Sentence to classify", disabled: true });
    field.setAttribute("aria-label", "sentence to classify");
    field.addEventListener("input", () => field.value.trim() && predict([field.value.trim()]));
    place.append(field);
    empty = () => { field.value = ""; field.disabled = true; };
    again = () => { field.disabled = false; if (field.value.trim()) predict([field.value.trim()]); };
  } else {
    const shown = make("div", { className: "kept" }), tools = make("div", { className: "tools" });
    const ask = images => { again = () => predict(images); again(); };
    const refuse = message => byId("predictions").prepend(make("p", { className: "error", textContent: message }));
    if (DRAWN) {
      const canvas = drawingPad("drawing to classify", () => { shown.replaceChildren(); ask([canvas.toImage()]); });
      empty = () => { canvas.wipe(); shown.replaceChildren(); again = () => {}; };
      tools.append(make("button", { type: "button", className: "small", textContent: "Erase", onclick: empty }));
      place.append(canvas);
    } else empty = () => { shown.replaceChildren(); again = () => {}; };
    tools.append(...files(place, "image files to classify", images => {
      shown.replaceChildren(...(images.length === 1 ? [make("img", { src: images[0], alt: "image to classify" })] : [make("p", { className: "note", textContent: `${images.length} images` })]));
      ask(images);
    }, refuse));
    place.append(shown, tools);
  }
  const say = text => byId("predictions").replaceChildren(make("p", { className: "note", textContent: text }));
  return { clear: () => { empty(); say("Adapt the model first."); }, enable: () => { say(TEXT ? "Type a sentence." : DRAWN ? "Draw something, or drop image files." : "Drop one image or several."); again(); } };
})();

const arc = (from, to, steps = 40, radius = () => .32) => Array.from({ length: steps + 1 }, (_, i) => {
  const angle = from + (to - from) * i / steps, r = radius(i / steps);
  return [.5 + r * Math.cos(angle), .5 + r * Math.sin(angle)];
});
const SHAPES = {
  circle: arc(0, 2 * Math.PI), zigzag: [[.2, .3], [.8, .3], [.2, .7], [.8, .7]], triangle: [[.5, .2], [.8, .75], [.2, .75], [.5, .2]],
  spiral: arc(0, 5 * Math.PI, 80, t => .05 + .3 * t), hook: [[.35, .2], [.35, .75], [.65, .75], [.65, .5]],
};

byId("shapes").addEventListener("click", () => {
  const names = Object.keys(SHAPES).slice(0, MODEL.anyWays ? 5 : MODEL.ways);
  while (classes.length < names.length) addClass();
  names.forEach((name, i) => { classes[i].name.value = name; classes[i].canvas.polyline(SHAPES[name]); });
});
byId("more").addEventListener("click", () => { addClass(); classes.at(-1).name.focus(); });
byId("clear").addEventListener("click", () => {
  classes.forEach((entry, i) => { entry.wipe(); entry.name.value = `class ${i + 1}`; });
  model = null;
  requests++;  // the answer of a request under way is not shown
  question.clear();
  limit("");
  clearPool();
  stale();
});
byId("adapt").addEventListener("click", adapt);
for (let i = 0; i < MODEL.ways; i++) addClass();
