import { describe, expect, test } from 'vitest';
import type { HostState } from './host-watch.ts';
import { hostName, hostsOf } from './hosts.ts';
import { choosePrimary } from './primary.ts';

const a = 'postgresql://conger@10.0.0.1/conger';
const b = 'postgresql://conger@10.0.0.2/conger';

function primary(timeline: number): HostState {
  return { kind: 'primary', timeline };
}

function choose(
  states: readonly [HostState, HostState],
  known?: { url: string; timeline: number },
  least = 0,
  now = 0,
) {
  const hosts = new Map([
    [a, states[0]],
    [b, states[1]],
  ]);
  return choosePrimary(hosts, known, least, now);
}

describe('choosePrimary', () => {
  const away: HostState = { kind: 'away' };
  const standby: HostState = { kind: 'standby', timeline: 1 };
  const silent: HostState = { kind: 'silent', since: 1_000 };

  test('takes the one that is no standby', () => {
    expect(choose([primary(1), standby])).toEqual({ url: a, timeline: 1 });
    expect(choose([away, primary(3)])).toEqual({ url: b, timeline: 3 });
    expect(choose([away, standby])).toBeUndefined();
  });

  test('of two that say so takes the one of the higher timeline, wherever it stands', () => {
    expect(choose([primary(1), primary(2)], { url: a, timeline: 1 }, 2)).toEqual({ url: b, timeline: 2 });
    expect(choose([primary(12), primary(9)])).toEqual({ url: a, timeline: 12 });
  });

  test('of two of one timeline keeps the one it has', () => {
    expect(choose([primary(2), primary(2)], { url: b, timeline: 2 }, 2)).toEqual({ url: b, timeline: 2 });
  });

  test('never takes, nor keeps, one below a timeline that was seen', () => {
    expect(choose([primary(1), away], undefined, 2)).toBeUndefined();
    expect(
      choose([primary(1), { kind: 'standby', timeline: 2 }], { url: a, timeline: 1 }, 2),
    ).toBeUndefined();
    expect(choose([silent, away], { url: a, timeline: 1 }, 2, 1_000)).toBeUndefined();
  });

  test('keeps a silent one for five seconds, and one that answers with errors', () => {
    const known = { url: a, timeline: 1 };
    expect(choose([silent, standby], known, 1, 5_999)).toEqual(known);
    expect(choose([silent, standby], known, 1, 6_000)).toBeUndefined();
    expect(choose([silent, primary(2)], known, 2, 1_001)).toEqual({ url: b, timeline: 2 });
    expect(
      choose([{ kind: 'unclear', error: new Error('too many connections') }, standby], known, 1),
    ).toEqual(known);
  });

  test('drops one that takes no connections, or has become a standby', () => {
    expect(choose([away, standby], { url: a, timeline: 1 }, 1)).toBeUndefined();
    expect(choose([standby, standby], { url: a, timeline: 1 }, 1)).toBeUndefined();
  });
});

describe('hostsOf', () => {
  test('takes one URL or several', () => {
    expect(hostsOf(a)).toEqual([a]);
    expect(hostsOf(`${a}, ${b}`)).toEqual([a, b]);
  });

  test('parts only before a URL: a password may hold commas', () => {
    const comma = 'postgres://conger:a,b@10.0.0.1/conger';
    expect(hostsOf(`${comma},${b}`)).toEqual([comma, b]);
  });

  test('refuses what is no URL of PostgreSQL', () => {
    for (const wrong of ['', ' ', '10.0.0.1', 'http://10.0.0.1', `mysql://x,${a}`]) {
      expect(() => hostsOf(wrong)).toThrow('PostgreSQL: ');
    }
  });

  test('hostName shows no password', () => {
    expect(hostName('postgresql://conger:secret@10.0.0.1:5433/conger')).toBe('10.0.0.1:5433');
  });
});
