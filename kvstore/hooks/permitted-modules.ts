import { CongerError } from '../../runtime/errors.ts';
import { etagOf } from '../store/etag.ts';

/** The two modules that Moray lets its triggers require, as far as triggers use them. */

function microseconds(): number {
  return Math.floor((performance.timeOrigin + performance.now()) * 1000);
}

const microtime = {
  now: microseconds,
  nowDouble: () => microseconds() / 1e6,
  nowStruct: () => {
    const now = microseconds();
    return [Math.floor(now / 1e6), now % 1e6];
  },
};

function hex(digits: number): (crc: number) => string {
  return (crc) => (crc >>> 0).toString(16).toUpperCase().padStart(digits, '0').slice(-digits);
}

const crc = {
  crc32: (text: unknown) => Number.parseInt(etagOf(String(text)), 16),
  hex8: hex(2),
  hex16: hex(4),
  hex32: hex(8),
};

const permitted: Readonly<Record<string, object>> = { microtime, crc };

/** @throws InvalidRequireError for every other module */
export function requirePermitted(name: unknown): object {
  const found = typeof name === 'string' && Object.hasOwn(permitted, name) ? permitted[name] : undefined;
  if (found !== undefined) return found;
  throw new CongerError('InvalidRequireError', `"${name}" is not a permitted module`);
}
