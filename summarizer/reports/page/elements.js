"use strict";
/* The data of the page, and elements made from it. Text from runs enters the document as text only. */

const DATA = JSON.parse(document.getElementById("data").textContent);

const by = (id) => document.getElementById(id);

function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function draw(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(text, onClick, className = "small") {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/* A labeled select; `options` are [value, text] pairs. */
function select(id, text, options, value, onChange) {
  const made = make("select");
  made.id = id;
  for (const [of, shown] of options) made.append(new Option(shown, of));
  made.value = value;
  made.addEventListener("change", () => onChange(made.value));
  const label = make("label", "control", make("span", "", text), made);
  return label;
}

/* New options for a select, where they are others than before. */
function refill(made, options, value) {
  const same = made.options.length === options.length && options.every(([of], i) => made.options[i].value === of);
  if (!same) made.replaceChildren(...options.map(([of, shown]) => new Option(shown, of)));
  made.value = value;
}

function checkBox(text, checked, onChange, name = "") {
  const box = make("input");
  Object.assign(box, { type: "checkbox", checked, name });
  box.addEventListener("change", () => onChange(box.checked));
  return make("label", "check", box, make("span", "", text));
}

/* Says why there is nothing to see. */
const nothing = (why) => make("p", "nothing", why);

const counted = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function signed(value, digits) {
  const size = Math.abs(value).toFixed(digits);
  return Number(size) === 0 ? size : `${value < 0 ? "−" : "+"}${size}`;
}

function pText(p) {
  if (p < 0.001) return "p < 0.001";
  return `p = ${p.toFixed(p < 0.1 ? 3 : 2)}`;
}

const canvas = document.createElement("canvas").getContext("2d");
const FAMILY = getComputedStyle(document.body).fontFamily;

/* Width of a text in a chart, in pixels. */
function widthOf(text, weight = "400") {
  canvas.font = `${weight} 12px ${FAMILY}`;
  return canvas.measureText(text).width;
}

/* A text that fits into `most` pixels, with its middle left out where it must be cut. */
function fitted(text, most) {
  if (widthOf(text) <= most) return text;
  const characters = Array.from(text);
  const average = widthOf(text) / characters.length;
  let keep = Math.max(3, Math.floor(most / average) - 1);
  const cut = () => `${characters.slice(0, Math.ceil(keep / 2)).join("")}…${characters.slice(characters.length - Math.floor(keep / 2)).join("")}`;
  while (keep > 3 && widthOf(cut()) > most) keep -= 1;
  return cut();
}
