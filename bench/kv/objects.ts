import { randomUUID } from 'node:crypto';

export const bucket = 'bench';

/** Six indexes, one of them unique. */
export const config = {
  index: {
    name: { type: 'string' },
    size: { type: 'number' },
    active: { type: 'boolean' },
    ip: { type: 'ip' },
    owner_uuid: { type: 'uuid' },
    mac: { type: 'mac', unique: true },
  },
  options: { version: 1 },
};

export function keyOf(n: number): string {
  return `key${n}`;
}

/** Object number `n`: 1 KB as JSON, no two alike in any unique field. */
export function objectOf(n: number): Record<string, unknown> {
  const hex = n.toString(16).padStart(10, '0');
  const indexed = {
    name: `object ${n}`,
    size: n,
    active: n % 2 === 0,
    ip: `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`,
    owner_uuid: randomUUID(),
    mac: `02${hex}`.match(/../g)?.join(':'),
  };
  const fill = 1024 - JSON.stringify({ ...indexed, fill: '' }).length;
  return { ...indexed, fill: 'x'.repeat(fill) };
}
