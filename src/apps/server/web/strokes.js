// Owns masks: strokes of a brush over a picture, in its pixels, and how they are drawn.

/** What a stroke is drawn in: over the shown picture in a colour or not at all, in the file in white or black. */
export const kShown = { paint: "#18c2a8", erase: null }, kFile = { paint: "#fff", erase: "#000" };

/** Sets the context up to paint or to erase. */
function choose(context, colour) {
  context.globalCompositeOperation = colour ? "source-over" : "destination-out";
  context.fillStyle = context.strokeStyle = colour ?? "#000";
}

/** Draws what a stroke has from its point number `from` on. A stroke: {erases, size, points}, or {clears: true}. */
export function drawStroke(context, stroke, colours, from = 0) {
  const { erases, clears, size, points } = stroke;
  choose(context, erases || clears ? colours.erase : colours.paint);
  if (clears) return context.fillRect(0, 0, 1 << 15, 1 << 15);
  context.lineWidth = size;
  context.lineCap = context.lineJoin = "round";
  const [first, ...rest] = points.slice(Math.max(0, from - 1));
  context.beginPath();
  context.arc(...first, size / 2, 0, 2 * Math.PI);  // a line of no length has no caps
  context.fill();
  context.beginPath();
  context.moveTo(...first);
  for (const point of rest) context.lineTo(...point);
  context.stroke();
}

/** Lays a mask's file below strokes that are to be shown: what is white in it in their colour. */
function drawBase(context, base) {
  const { width, height } = context.canvas;
  context.drawImage(base, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i];
  context.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = kShown.paint;
  context.fillRect(0, 0, width, height);
}

/** Draws a mask anew: {base, strokes}, base an image or null; `width` is the picture's. */
export function drawMask(context, { base, strokes, width }, colours) {
  const { canvas } = context;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (colours.erase) {
    context.fillStyle = colours.erase;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (base) context.drawImage(base, 0, 0, canvas.width, canvas.height);
  } else if (base) {
    drawBase(context, base);
  }
  context.scale(canvas.width / width, canvas.width / width);
  for (const stroke of strokes) drawStroke(context, stroke, colours);
}

/** @returns whether a canvas that shows a mask has anything painted: an erased edge leaves up to a quarter. */
export function isPainted(context) {
  const { data } = context.getImageData(0, 0, context.canvas.width, context.canvas.height);
  for (let i = 3; i < data.length; i += 4) if (data[i] > 64) return true;
  return false;
}

/** @returns the mask as a PNG of the picture's size, white on black, as a data URL; nothing where it is too large. */
export function maskFile(mask) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: mask.width, height: mask.height });
  const context = canvas.getContext("2d", { alpha: false });
  if (!context) return null;
  drawMask(context, mask, kFile);
  const url = canvas.toDataURL("image/png");
  return url.startsWith("data:image/png;base64,") ? url : null;
}
