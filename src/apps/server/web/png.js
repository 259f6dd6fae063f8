// Owns the reading of a picture's settings from the text chunks of a PNG.
import { parseJson } from "./json.js";

const kSignature = [137, 80, 78, 71, 13, 10, 26, 10];
const kMaxTextBytes = 1 << 20;

const latin1 = (bytes) => new TextDecoder("latin1").decode(bytes);
const utf8 = (bytes) => new TextDecoder().decode(bytes);

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const parts = [];
  let length = 0;
  for (let reader = stream.getReader(), part; !(part = await reader.read()).done;) {
    if ((length += part.value.length) > kMaxTextBytes) throw new Error("a text in the PNG is larger than 1 MB");
    parts.push(part.value);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** Cuts `bytes` at the first zero. */
function cut(bytes) {
  const end = bytes.indexOf(0);
  if (end < 0) throw new Error("a text chunk of the PNG is damaged");
  return [bytes.subarray(0, end), bytes.subarray(end + 1)];
}

async function readText(kind, body) {
  let [keyword, rest] = cut(body), packed = kind === "zTXt";
  if (packed) {
    rest = rest.subarray(1);
  } else if (kind === "iTXt") {
    packed = rest[0] === 1;
    const [, afterLanguage] = cut(rest.subarray(2));
    [, rest] = cut(afterLanguage);
  }
  if (packed) rest = await inflate(rest);
  return [latin1(keyword), kind === "iTXt" ? utf8(rest) : latin1(rest)];
}

/** @returns the texts of a PNG file, an ArrayBuffer, by keyword. @throws {Error} if it is no PNG or damaged */
export async function pngTexts(buffer) {
  const bytes = new Uint8Array(buffer), view = new DataView(buffer);
  if (!kSignature.every((value, i) => bytes[i] === value)) throw new Error("this is no PNG file");
  const texts = {};
  for (let offset = 8; ;) {
    const start = offset + 8, end = start + (start <= bytes.length ? view.getUint32(offset) : 0);
    if (end + 4 > bytes.length) throw new Error("the PNG file is cut off");
    const kind = latin1(bytes.subarray(offset + 4, start));
    if (kind === "IEND") return texts;
    if (["tEXt", "zTXt", "iTXt"].includes(kind)) {
      const [keyword, text] = await readText(kind, bytes.subarray(start, end));
      texts[keyword] = text;
    }
    offset = end + 4;
  }
}

/** @returns Z-Image's guidance, one less than the usual scale. The first versions of nostos wrote it in the other's place. */
function guidance(field) {
  const scale = field("CFG scale"), own = field("Guidance scale");
  if (own !== undefined || scale === undefined) return own;
  if (field("Version")?.startsWith("nostos ")) return scale;
  return String(Math.max(0, Math.round((Number(scale) - 1) * 1e9) / 1e9));
}

/** Reads what WebUI tools write: prompt, negative prompt, and a last line of settings. */
function parseWebui(text) {
  const lines = text.split("\n");
  const last = lines.findLastIndex((line) => /^Steps: \d+/.test(line));
  const line = last < 0 ? "" : lines[last];
  const [prompt, negative = ""] = (last < 0 ? lines : lines.slice(0, last)).join("\n").split(/^Negative prompt: ?/m);
  // A value with a comma stands in quotes, which may hold what looks like a setting.
  const plain = line.replace(/"(?:\\.|[^\\"])*"/g, '""');
  const field = (name) => plain.match(new RegExp(`(?:^|, )${name}: ([^,]+)`))?.[1];
  const [width, height] = field("Size")?.split("x") ?? [];
  return {
    prompt: prompt.trim(), negative_prompt: negative.trim(), width, height,
    num_inference_steps: field("Steps"), guidance_scale: guidance(field), seed: field("Seed"),
  };
}

/** @returns settings of the form from a PNG's texts, undefined where they do not say. @throws {Error} if they hold none */
export function pictureSettings(texts) {
  if (texts.nostos) {
    const record = parseJson(texts.nostos);
    const { images: image = [], loras = [], mask, control } = record;
    return {
      ...record, image, loras, ...mask && { mask_blur: mask.blur }, ...control && { control: { ...control, image: control.sha256 ? control : null } },
    };
  }
  if (texts.parameters) return parseWebui(texts.parameters);
  throw new Error("this picture does not say how it was drawn");
}
