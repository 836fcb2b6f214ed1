/**
 * The two checksums of the fast protocol: which one a message carries depends on its version. Both are made 16 bytes a
 * step: a table for each place in the step says what a byte there comes to at its end, so that the sixteen look-ups do
 * not wait for each other.
 */
const step = 16;

/**
 * @param next the register after one byte of zeros; its low byte is the one that the next byte of data meets first
 * @returns `step` tables of 256 entries in one array: table k is for a byte that k others follow
 */
function tables(next: (register: number) => number): Int32Array {
  const entries = new Int32Array(step * 256);
  for (let i = 0; i < entries.length; i++) entries[i] = next(i < 256 ? i : (entries[i - 256] ?? 0));
  return entries;
}

const swapped = (register: number) => ((register & 0xff) << 8) | (register >>> 8);

const arc = tables((register) => {
  let crc = register;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xa001 : crc >>> 1;
  return crc;
});

/** Its register is kept with the two bytes swapped, which lets it take the same steps as the other's. */
const xmodem = tables((register) => {
  let crc = swapped(register);
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  return swapped(crc);
});

function scan(t: Int32Array, b: Uint8Array, from: number, to: number): number {
  let crc = 0;
  let i = from;
  for (; i + step <= to; i += step) {
    crc =
      t[3840 + ((crc ^ b[i]!) & 0xff)]! ^
      t[3584 + ((crc >>> 8) ^ b[i + 1]!)]! ^
      t[3328 + b[i + 2]!]! ^
      t[3072 + b[i + 3]!]! ^
      t[2816 + b[i + 4]!]! ^
      t[2560 + b[i + 5]!]! ^
      t[2304 + b[i + 6]!]! ^
      t[2048 + b[i + 7]!]! ^
      t[1792 + b[i + 8]!]! ^
      t[1536 + b[i + 9]!]! ^
      t[1280 + b[i + 10]!]! ^
      t[1024 + b[i + 11]!]! ^
      t[768 + b[i + 12]!]! ^
      t[512 + b[i + 13]!]! ^
      t[256 + b[i + 14]!]! ^
      t[b[i + 15]!]!;
  }
  for (; i < to; i++) crc = t[(crc ^ b[i]!) & 0xff]! ^ (crc >>> 8);
  return crc;
}

/** Version 2: CRC-16/ARC over the payload's bytes. */
export function crcArc(bytes: Uint8Array, from: number, to: number): number {
  return scan(arc, bytes, from, to);
}

/**
 * Version 1: CRC-16/XMODEM over the low byte of each UTF-16 code unit of the text. That is what node-crc 0.3 made of
 * strings, and every peer that speaks version 1 expects it.
 */
export function crcLegacy(text: string): number {
  let crc = 0;
  for (let i = 0; i < text.length; i++) crc = xmodem[(crc ^ text.charCodeAt(i)) & 0xff]! ^ (crc >>> 8);
  return swapped(crc);
}

/** The same where the text is ASCII: its units are these bytes. */
export function crcLegacyAscii(bytes: Uint8Array, from: number, to: number): number {
  return swapped(scan(xmodem, bytes, from, to));
}
