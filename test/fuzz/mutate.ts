import type { Random } from '../random.ts';

const interesting = [0, 1, 9, 10, 0x20, 0x22, 0x27, 0x28, 0x29, 0x2a, 0x5c, 0x7f, 0x80, 0xc0, 0xed, 0xff];

/** Changes `input` in one to four places; now and then with a piece of `other` or with one of `words`. */
export function mutate(random: Random, input: Buffer, other: Buffer, words: readonly string[]): Buffer {
  let bytes = input;
  for (let n = 1 + random.below(4); n > 0; n--) bytes = once(random, bytes, other, words);
  return bytes;
}

function once(random: Random, input: Buffer, other: Buffer, words: readonly string[]): Buffer {
  const at = random.below(input.length + 1);
  const length = Math.min(1 + random.below(1 + random.below(64)), input.length - at);
  const replaced = (by: Uint8Array, over: number) =>
    Buffer.concat([input.subarray(0, at), by, input.subarray(at + over)]);
  switch (random.below(8)) {
    case 0:
      return replaced(Buffer.of((input[at] ?? 0) ^ (1 << random.below(8))), 1);
    case 1:
      return replaced(Buffer.of(random.pick(interesting)), random.below(2));
    case 2:
      return replaced(Buffer.of(random.below(256)), random.below(2));
    case 3:
      return replaced(Buffer.alloc(0), length);
    case 4:
      return replaced(repeated(input.subarray(at, at + length), 1 + random.below(8)), 0);
    case 5: {
      const from = random.below(other.length + 1);
      return replaced(other.subarray(from, from + 1 + random.below(64)), random.below(2) * length);
    }
    default:
      if (words.length === 0) return input;
      return replaced(Buffer.from(random.pick(words)), random.below(2) * length);
  }
}

function repeated(piece: Buffer, times: number): Buffer {
  return Buffer.concat(Array.from({ length: times }, () => piece));
}
