// Owns the shard plans shown on the page: the rules of src/parallel/shard_plan.cc, and their diagram.

const kTokenPixels = 16;
const kSvg = "http://www.w3.org/2000/svg";

const roundUp = (value, multiple) => Math.ceil(value / multiple) * multiple;

/** @returns `count` things dealt to `parts`, the first count mod parts getting one more. */
function split(count, parts) {
  return Array.from({ length: parts }, (_, i) => Math.floor(count / parts) + (i < count % parts ? 1 : 0));
}

function cutAlong(axis, rows, columns, ranks, multiple) {
  const [along, other] = axis === "height" ? [rows, columns] : [columns, rows];
  const sizes = split(along, ranks);
  const target = roundUp(Math.max(...sizes) * other, multiple);
  return { axis, sizes, target, cost: target * ranks - rows * columns };
}

/**
 * Plans a picture of this size in pixels, drawn at the next multiple of 16. A model pads sequences to a multiple of tokens.
 * @returns rows, columns and pads of the token grid on one rank; ranges: the token plan, [begin, end) of the padded sequence
 * a rank; axis, sizes, target, cost: the axis plan, all in tokens
 */
export function makePlan(width, height, ranks, multiple) {
  const rows = Math.ceil(height / kTokenPixels), columns = Math.ceil(width / kTokenPixels);
  const padded = roundUp(rows * columns, multiple);
  let begin = 0;
  const ranges = split(padded, ranks).map((count) => [begin, (begin += count)]);
  const [down, across] = ["height", "width"].map((axis) => cutAlong(axis, rows, columns, ranks, multiple));
  const takeHeight = down.cost !== across.cost ? down.cost < across.cost : rows >= columns;
  return { rows, columns, pads: padded - rows * columns, ranges, ...(takeHeight ? down : across) };
}

/** @returns the rectangles of tokens that hold [begin, end) of a row-major grid, at most three. */
function rectangles(begin, end, columns) {
  const parts = [];
  while (begin < end) {
    const x = begin % columns, y = Math.floor(begin / columns);
    const wholeRows = x === 0 ? Math.floor((end - begin) / columns) : 0;
    const width = wholeRows ? columns : Math.min(columns - x, end - begin);
    parts.push({ x, y, width, height: wholeRows || 1 });
    begin += wholeRows ? wholeRows * columns : width;
  }
  return parts;
}

/** @returns counts of tokens, pads and idle places of each rank, and its rectangles; kind: "token" or "axis". */
export function shares(plan, kind) {
  const tokens = plan.rows * plan.columns;
  if (kind === "token") {
    return plan.ranges.map(([begin, end]) => {
      const last = Math.max(begin, Math.min(end, tokens));
      return { tokens: last - begin, pads: end - last, idle: 0, parts: rectangles(begin, last, plan.columns) };
    });
  }
  let offset = 0, padsLeft = plan.pads;
  return plan.sizes.map((size) => {
    const part = plan.axis === "height"
      ? { x: 0, y: offset, width: plan.columns, height: size }
      : { x: offset, y: 0, width: size, height: plan.rows };
    offset += size;
    if (size === 0) return { tokens: 0, pads: 0, idle: 0, parts: [] };
    const held = part.width * part.height;
    const pads = Math.min(plan.target - held, padsLeft);
    padsLeft -= pads;
    return { tokens: held, pads, idle: plan.target - held - pads, parts: [part] };
  });
}

/** Steps of the golden ratio keep neighbouring ranks' hues apart. */
const hue = (rank) => Math.round(360 * ((rank * 0.618034 + 0.52) % 1));

/** Draws the plan into the svg and its numbers into the table body. */
export function drawPlan(svg, body, plan, kind) {
  svg.setAttribute("viewBox", `0 0 ${plan.columns} ${plan.rows}`);
  const dealt = shares(plan, kind);
  svg.replaceChildren(...dealt.flatMap((share, rank) => share.parts.map((part) => {
    const rectangle = document.createElementNS(kSvg, "rect");
    for (const [name, value] of Object.entries(part)) rectangle.setAttribute(name, value);
    rectangle.style.setProperty("--hue", hue(rank));
    return rectangle;
  })));
  svg.setAttribute("aria-label",
    `${plan.rows} rows of ${plan.columns} tokens on ${dealt.length} rank${dealt.length === 1 ? "" : "s"}`);
  body.replaceChildren(...dealt.map(({ tokens, pads, idle }, rank) => {
    const row = document.createElement("tr");
    row.innerHTML = `<th scope="row"><i></i>${rank}</th>` +
      [tokens, pads, idle].map((count) => `<td>${count.toLocaleString("en")}</td>`).join("");
    row.querySelector("i").style.setProperty("--hue", hue(rank));
    return row;
  }));
}
