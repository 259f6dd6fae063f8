// Owns the LoRAs of the next job: chosen among those that the server has, each with its strength.
import { request } from "./api.js";
import { $, element } from "./form.js";

const kRememberName = "nostos.loras";

let known = [];   // names
let chosen = [];  // {name, scale}

function show() {
  $("loras").hidden = !known.length && !chosen.length;
  $("lora-list").replaceChildren(...chosen.map((lora) => {
    const { name, scale: value } = lora;
    const range = element("input", { type: "range", min: -2, max: 2, step: 0.05, value, "aria-label": `Strength of ${name}` });
    const number = element("input", { type: "number", min: -100, max: 100, step: "any", value, "aria-label": `Strength of ${name}` });
    for (const [from, to] of [[range, number], [number, range]]) {
      from.oninput = () => {
        lora.scale = Number(to.value = from.value);
        keep();
      };
    }
    const remove = () => choose(chosen.filter((other) => other !== lora));
    return element("div", { className: "lora" }, element("span", { textContent: name, title: name }), range, number,
      element("button", { type: "button", className: "icon", textContent: "×", title: `Remove ${name}`, onclick: remove }));
  }));
  const others = known.filter((name) => !chosen.some((lora) => lora.name === name));
  $("lora-names").replaceChildren(...others.map((name) => new Option(name)));
  $("add-lora").disabled = !others.length;
}

const keep = () => localStorage.setItem(kRememberName, JSON.stringify(chosen));

function choose(loras) {
  chosen = loras;
  keep();
  show();
}

/** @returns the field `loras` of a job: nothing where none is chosen. */
export const loras = () => chosen.length ? { loras: chosen } : {};

/** Puts those of a job in place of those chosen. */
export const useLoras = (list) => choose(list.map(({ name, scale }) => ({ name, scale })));

/** Asks the server which there are: files come and go. */
async function load() {
  const names = (await request("v1/loras").catch(() => ({ data: [] }))).data.map(({ name }) => name);
  if (names.join("\n") === known.join("\n")) return;
  known = names;
  show();
}

/** Brings back what was chosen, and lists what can be. */
export function startLoras() {
  choose(JSON.parse(localStorage.getItem(kRememberName) ?? "[]"));
  $("lora-names").onfocus = load;
  $("add-lora").onclick = () => {
    choose([...chosen, { name: $("lora-names").value, scale: 1 }]);
    $("lora-list").lastChild.querySelector("input").focus();
  };
  load();
}
