import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { whyNoKernel } from '../testing/nodes.ts';
import { run } from './exec.ts';
import { NftSession } from './nft-session.ts';

const why = whyNoKernel();

describe.skipIf(why !== null)(`nft that stays${why === null ? '' : ` (skipped: ${why})`}`, () => {
  let namespace: string;
  let folder: string;
  let session: NftSession;
  const path = process.env.PATH;
  beforeEach(async () => {
    namespace = `t${randomBytes(3).toString('hex')}`;
    folder = await mkdtemp(join(tmpdir(), 'conger-nft-'));
    session = new NftSession(namespace, join(folder, 'run', 'one.nft'));
    await run('ip', ['netns', 'add', namespace]);
  });
  afterEach(async () => {
    process.env.PATH = path;
    await session.close();
    await run('ip', ['netns', 'del', namespace]);
    await rm(folder, { recursive: true });
  });

  const listed = () => run('nsenter', [`--net=/run/netns/${namespace}`, 'nft', 'list', 'ruleset']);
  const base = 'add table inet t\nadd chain inet t c\nadd rule inet t c tcp dport 1 accept\n';

  it('runs one transaction after another, in one process', async () => {
    await session.load(base);
    const { pid } = session;
    for (let port = 2; port < 50; port++) {
      await session.load(`flush chain inet t c\nadd rule inet t c tcp dport ${port} accept`);
      if (port % 10 === 0) expect(await listed()).toContain(`tcp dport ${port} accept`);
    }
    expect(session.pid).toBe(pid);
    expect(await readFile(`/proc/${pid}/comm`, 'utf8')).toBe('nft\n');
    expect((await listed()).match(/dport/g)).toHaveLength(1);
  });

  it.each([
    ['that it cannot read', 'add rule inet t c tcp dport 70000 accept', '70000'],
    ['that it does not know', 'add rule inet t nowhere accept', 'nowhere'],
    [
      'that the kernel refuses',
      'add set inet t s { type ipv4_addr; }\ndelete element inet t s { 10.0.0.9 }',
      '10.0.0.9',
    ],
    ['that says what ends a transaction', 'end-of-transaction', 'end-of-transaction'],
  ])('refuses all of a transaction with a line %s, says why, and goes on', async (_what, line, word) => {
    await session.load(base);
    const before = await listed();
    const { pid } = session;
    await expect(session.load(`flush chain inet t c\nadd rule inet t c accept\n${line}\n`)).rejects.toThrow(
      word,
    );
    expect(await listed()).toBe(before);
    await session.load('flush chain inet t c');
    expect(await listed()).not.toContain('dport');
    expect(session.pid).toBe(pid);
  });

  it('takes what comes at once in turn, and what is long', async () => {
    const elements = Array.from({ length: 30_000 }, (_, i) => `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`);
    const long = `add table inet t\nadd set inet t s { type ipv4_addr; }\nadd element inet t s { ${elements.join(', ')} }\n`;
    await Promise.all([
      session.load(long),
      session.load('add chain inet t c'),
      session.load('add rule inet t c ip saddr @s accept'),
    ]);
    const text = await listed();
    expect(text.match(/10\.\d+\.\d+\.\d+/g)).toHaveLength(30_000);
    expect(text).toContain('ip saddr @s accept');
  });

  it('is there again after it was killed, and says that the outcome is not known', async () => {
    await session.load(base);
    const { pid = 0 } = session;
    const underWay = session.load('flush chain inet t c');
    process.kill(pid, 'SIGKILL');
    // It may have been done before the signal came.
    await underWay.catch((error: unknown) => expect(String(error)).toContain('SIGKILL'));
    await session.load('add chain inet t d');
    expect(await listed()).toContain('chain d');
    expect(session.pid).not.toBe(pid);
  });

  it('is in the namespace of that name, also in one that was made anew', async () => {
    await session.load(base);
    await run('ip', ['netns', 'del', namespace]);
    await expect(session.load(base)).rejects.toThrow(namespace);
    await run('ip', ['netns', 'add', namespace]);
    await session.load('add table inet fresh');
    expect(await listed()).toBe('table inet fresh {\n}\n');
  });

  it('is done without where nft has no such mode', async () => {
    const real = (await run('sh', ['-c', 'command -v nft'])).trim();
    const fake = join(folder, 'nft');
    await writeFile(
      fake,
      `#!/bin/sh\n[ "$1" = -i ] && { echo "no interactive mode" >&2; exit 1; }\nexec ${real} "$@"\n`,
    );
    await chmod(fake, 0o755);
    process.env.PATH = `${folder}:${path}`;
    await session.load(base);
    expect(await listed()).toContain('dport 1 ');
    await expect(session.load('flush chain inet t c\nadd rule inet t nowhere accept')).rejects.toThrow(
      'nowhere',
    );
    expect(await listed()).toContain('dport 1 ');
    expect(session.pid).toBeUndefined();
  });

  it('ends, and leaves what is in force', async () => {
    await session.load(base);
    const { pid } = session;
    await session.close();
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(await listed()).toContain('dport 1 ');
  });
});
