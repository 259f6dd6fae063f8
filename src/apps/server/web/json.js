// Owns JSON with seeds of 64 bits, which JavaScript's numbers cannot hold: such a seed is the text of its digits.

export const kMaxSeed = 2n ** 64n - 1n;

/** JSON.parse with such seeds. A quote within a string is escaped, so the pattern meets field names alone. */
export function parseJson(text) {
  return JSON.parse(text.replace(/"seed":\s*(\d{16,})/g, '"seed":"$1"'));
}

/** @returns the seed of these digits: a number, or such a text. */
export function exactSeed(digits) {
  return BigInt(digits) <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(digits) : BigInt(digits).toString();
}
