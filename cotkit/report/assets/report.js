"use strict";
// The viewer of questions, and tables that sort. Texts from the data are set with textContent, so markup in them is shown,
// never run.
const ROW_HEIGHT = 56; // pixels, as in the style sheet; rows of equal height let the list hold only the visible ones
const byId = (id) => document.getElementById(id);
const { fields, sets } = JSON.parse(byId("data").textContent);
for (const { questions } of sets) {
  for (const question of questions) {
    question.outputs = question.outputs.map((samples) => samples.map((values) =>
      Object.fromEntries(fields.map((name, at) => [name, values[at]]))));
  }
}
const controls = Object.fromEntries(
  ["dataset", "text", "method", "verdict", "reference", "outcome"].map((name) => [name, byId(name)]));
const list = byId("list"), names = byId("names"), spacer = byId("spacer"), detail = byId("detail");
let shown = []; // indices into the data set's questions that pass the filters
let selected = -1; // index into `shown`

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const current = () => sets[controls.dataset.value] ?? sets[0];
const rightOf = (samples) => samples.filter((sample) => sample.verdict === "correct").length;
const isRight = (samples) => rightOf(samples) * 2 > samples.length;

// The mean over a method's runs of their shares of right samples, as the comparison counts wins and losses.
function scoreOf(question, runs) {
  const shares = runs.map((run) => rightOf(question.outputs[run]) / Math.max(1, question.outputs[run].length));
  return shares.reduce((sum, share) => sum + share, 0) / runs.length;
}

function mark(samples, run) {
  const right = rightOf(samples);
  const sign = samples.length > 1 ? `${right}/${samples.length}` : right ? "✓" : "✗";
  const made = element("span", `mark ${isRight(samples) ? "correct" : "other"}`, sign);
  if (run !== undefined) made.title = run;
  return made;
}

// The names of the runs stand above the columns of marks.
function drawNames() {
  const { runs, questions } = current();
  const most = Math.max(1, ...questions.flatMap((question) => question.outputs.map((samples) => samples.length)));
  list.style.setProperty("--marks-width", `${runs.length * (most > 9 ? 3 : most > 1 ? 2.2 : 1.3)}rem`);
  const heads = element("div", "marks");
  heads.append(...runs.map((run) => element("span", "", run)));
  names.replaceChildren(heads);
}

function haystack(question) {
  question.text ??= [question.id, question.question, question.answer,
    ...question.outputs.flat().map((sample) => sample.before + sample.after)].join("\n").toLowerCase();
  return question.text;
}

const EQUAL = 1e-9; // closer scores are the same: rounding
const OUTCOMES = {
  any: () => true,
  wins: (ours, theirs) => ours > theirs + EQUAL,
  losses: (ours, theirs) => ours < theirs - EQUAL,
  both: (ours, theirs) => ours > 0.5 && theirs > 0.5,
  neither: (ours, theirs) => ours <= 0.5 && theirs <= 0.5,
};

function filter() {
  const { methods, questions } = current();
  const wanted = controls.text.value.trim().toLowerCase();
  const [method, reference] = [controls.method, controls.reference].map((control) => methods[Number(control.value)][1]);
  const verdict = controls.verdict.value, outcome = OUTCOMES[controls.outcome.value];
  shown = [];
  questions.forEach((question, index) => {
    const isWanted = (sample) => sample.verdict === verdict;
    if (verdict !== "any" && !method.some((run) => question.outputs[run].some(isWanted))) return;
    if (!outcome(scoreOf(question, method), scoreOf(question, reference))) return;
    if (wanted && !haystack(question).includes(wanted)) return;
    shown.push(index);
  });
  byId("count").textContent = `${shown.length} of ${questions.length} questions`;
  spacer.style.height = `${shown.length * ROW_HEIGHT}px`;
  list.scrollTop = 0;
  select(shown.length ? 0 : -1, false);
}

function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - 4);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW_HEIGHT) + 8);
  const rows = [];
  for (let index = first; index < last; index += 1) {
    const question = current().questions[shown[index]];
    const row = element("div", "row");
    row.id = `row-${index}`;
    const attributes = { role: "option", "aria-selected": index === selected, "aria-posinset": index + 1, "aria-setsize": shown.length };
    for (const [name, value] of Object.entries(attributes)) row.setAttribute(name, String(value));
    row.style.top = `${index * ROW_HEIGHT}px`;
    const name = element("div", "name");
    const marks = element("span", "marks");
    question.outputs.forEach((samples, run) => marks.append(mark(samples, current().runs[run])));
    name.append(element("span", "", question.id), marks);
    row.append(name, element("div", "text", question.question));
    row.addEventListener("click", () => select(index, true));
    rows.push(row);
  }
  spacer.replaceChildren(...rows);
}

function select(index, byUser) {
  selected = index;
  if (index >= 0) {
    const top = index * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    const room = list.clientHeight - names.offsetHeight; // the names stay above the rows
    if (top + ROW_HEIGHT > list.scrollTop + room) list.scrollTop = top + ROW_HEIGHT - room;
    list.setAttribute("aria-activedescendant", `row-${index}`);
  } else {
    list.removeAttribute("aria-activedescendant");
  }
  drawRows();
  drawDetail();
  if (byUser) history.replaceState(null, "", link(current().questions[shown[index]].id));
}

const link = (id) => `#${new URLSearchParams({ q: id })}`;

function card(run, sample, number, count) {
  const made = element("section", "card");
  const title = element("h4", "", count > 1 ? `${run}, sample ${number} ` : `${run} `);
  const verdict = mark([sample]);
  verdict.append(` ${sample.verdict.replaceAll("_", " ")}`);
  title.append(verdict);
  const answer = sample.extracted === null ? "no answer found" : `answer ${sample.extracted}`;
  const facts = `${answer} · ${sample.words} words, ${sample.words_to_answer} to the answer · ended by ${sample.finish_reason}`;
  const output = element("p", "output", sample.before);
  if (sample.after.trim()) output.append(element("span", "after", sample.after));
  made.append(title, element("div", "note", facts), output);
  return made;
}

function drawDetail() {
  if (selected < 0) {
    detail.replaceChildren(element("p", "note", "No question passes these filters."));
    return;
  }
  const { runs, questions } = current(), question = questions[shown[selected]];
  const title = element("h3"), anchor = element("a", "", question.id);
  anchor.href = link(question.id);
  title.append(anchor);
  const outputs = element("div", "outputs");
  question.outputs.forEach((samples, index) => samples.forEach((sample, number) =>
    outputs.append(card(runs[index], sample, number, samples.length))));
  const gold = element("details"), solution = element("p", "output", question.solution || "(none)");
  gold.append(element("summary", "", `Right answer: ${question.answer}`), solution);
  detail.replaceChildren(title, element("p", "question", question.question), gold, outputs);
}

function options(control, names, labels) {
  control.replaceChildren(...names.map((name, index) => {
    const option = element("option", "", labels ? labels[index] : name);
    option.value = name;
    return option;
  }));
}

function fillControls() {
  const { methods, questions } = current(), numbers = methods.map((_, index) => String(index));
  for (const control of [controls.method, controls.reference]) options(control, numbers, methods.map(([name]) => name));
  controls.method.value = numbers[numbers.length - 1];
  const verdicts = new Set(questions.flatMap((question) => question.outputs.flat().map((sample) => sample.verdict)));
  options(controls.verdict, ["any", ...[...verdicts].sort()]);
  drawNames();
}

// Opens what the address names: a question, the wins or losses of a pair, or a section.
function openAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  if (address.has("q")) openQuestion(address.get("q"));
  else if (address.has("outcome")) openOutcome(address);
  else if (byId(location.hash.slice(1))?.tagName === "DETAILS") byId(location.hash.slice(1)).open = true;
}

function showSet(index) {
  controls.dataset.value = String(index);
  fillControls();
  controls.text.value = "";
  controls.outcome.value = "any";
}

// It clears the filters, which could hide the question.
function openQuestion(wanted) {
  const dataset = sets.findIndex((set) => set.questions.some((question) => question.id === wanted));
  if (dataset < 0) return;
  showSet(dataset);
  filter();
  select(shown.findIndex((index) => current().questions[index].id === wanted), true);
}

function openOutcome(address) {
  const dataset = sets.findIndex((set) => set.name === address.get("data"));
  if (dataset < 0) return;
  showSet(dataset);
  for (const name of ["method", "reference"]) {
    controls[name].value = String(Math.max(0, current().methods.findIndex(([method]) => method === address.get(name))));
  }
  controls.outcome.value = address.get("outcome") in OUTCOMES ? address.get("outcome") : "any";
  filter();
  byId("questions").scrollIntoView();
  list.focus({ preventScroll: true });
}

// A click on a column's name sorts by it, numbers from the largest; the next click turns the order round.
function sortBy(head) {
  const body = head.closest("table").tBodies[0], rows = [...body.rows], column = head.cellIndex;
  const text = (row) => row.cells[column].textContent.trim();
  const number = (row) => Number.parseFloat(text(row).replaceAll(",", ""));
  const numeric = head.classList.contains("figure");
  const first = numeric ? "descending" : "ascending", other = numeric ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? other : first, sign = order === "ascending" ? 1 : -1;
  const compare = numeric
    ? (a, b) => Number.isNaN(number(a)) - Number.isNaN(number(b)) || sign * (number(a) - number(b))
    : (a, b) => sign * text(a).localeCompare(text(b));
  for (const one of head.parentElement.cells) one.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  body.append(...rows.sort(compare));
}
for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

const STEPS = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 10, PageUp: -10, End: Infinity, Home: -Infinity };
list.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in STEPS) || !shown.length) return;
  event.preventDefault();
  select(Math.max(0, Math.min(shown.length - 1, selected + STEPS[event.key])), true);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== controls.text) {
    event.preventDefault();
    controls.text.focus();
  } else if (event.key === "Escape" && event.target === controls.text) {
    list.focus();
  }
});

let waiting;
controls.text.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 120); // milliseconds: one search per pause in typing, not one per key
});
for (const name of ["method", "verdict", "reference", "outcome"]) controls[name].addEventListener("change", filter);
controls.dataset.addEventListener("change", () => { fillControls(); filter(); });
list.addEventListener("scroll", () => requestAnimationFrame(drawRows));
addEventListener("resize", drawRows);
addEventListener("hashchange", openAddress);

options(controls.dataset, sets.map((_, index) => String(index)), sets.map((set) => set.name));
fillControls();
filter();
openAddress();
