import * as zlib from 'node:zlib';

/** CRC-32 (IEEE 802.3, as in zlib), one table entry a byte. */
const table = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

/** For a Node older than 20.15, whose zlib does not export its own. */
export function crc32(text: string): number {
  let crc = 0xffffffff;
  for (const byte of Buffer.from(text)) crc = (table[(crc ^ byte) & 0xff] ?? 0) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const fastest = (zlib as Partial<typeof zlib>).crc32 ?? crc32;

/** An object's etag, as Moray makes it: the CRC-32 of the value's JSON text, eight hex digits in upper case. */
export function etagOf(json: string): string {
  return fastest(json).toString(16).toUpperCase().padStart(8, '0');
}
