import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { run } from '../driver/exec.ts';

/** What tests do and look at inside namespaces. */

/** Leaves something in a namespace by which it is known again; one that is made anew in its place does not have it. */
export async function mark(namespace: string): Promise<void> {
  await run('ip', ['-n', namespace, 'link', 'add', 'mark', 'type', 'bridge']);
}

export async function isMarked(namespace: string): Promise<boolean> {
  return (await run('ip', ['-n', namespace, '-o', 'link'])).includes(' mark: ');
}

/** A device's index: another number after it was made anew. */
export async function deviceIndex(namespace: string, device: string): Promise<string | undefined> {
  return (await run('ip', ['-n', namespace, '-o', 'link', 'show', device])).split(':')[0];
}

/** All that a namespace's kernel shows, with the numbers that tell a thing from another like it. */
export async function everything(namespace: string): Promise<string[]> {
  const net = `--net=/run/netns/${namespace}`;
  return Promise.all([
    run('ip', ['-n', namespace, '-o', 'link']),
    // Whether an address that the kernel gave itself is still being tried is a matter of time.
    run('ip', ['-n', namespace, '-o', 'addr']).then((text) => text.replaceAll(' tentative', '')),
    run('ip', ['-n', namespace, 'neigh', 'show', 'nud', 'permanent']),
    run('bridge', ['-n', namespace, 'fdb', 'show', 'state', 'permanent']),
    run('nsenter', [net, 'nft', '-a', 'list', 'ruleset']),
  ]);
}

interface Inside {
  /** The next line that it writes; null at its end. */
  line(): Promise<string | null>;
  write(text: string): void;
  end(): void;
}

function inside(namespace: string, script: string): Inside {
  const child = spawn('ip', ['netns', 'exec', namespace, process.execPath, '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    line: async () => {
      const next = await lines.next();
      return next.done ? null : next.value;
    },
    write: (text) => {
      child.stdin.write(text);
    },
    end: () => {
      child.stdin.end();
      child.kill('SIGKILL');
    },
  };
}

/** A TCP server in a namespace that sends back what it is sent. */
export async function echoServer(namespace: string, ports: readonly number[]): Promise<{ end(): void }> {
  const server = inside(
    namespace,
    `const net = require('net');
    let open = 0;
    for (const port of ${JSON.stringify(ports)}) {
      net.createServer((s) => { s.on('error', () => {}); s.pipe(s); })
        .listen(port, () => { open += 1; if (open === ${ports.length}) console.log('ready'); });
    }`,
  );
  await server.line();
  return server;
}

/** Milliseconds that what must come may take on a busy machine, and in which what must not come would have come. */
const patience = 20_000;
const inVain = 1_000;

export interface Client {
  /** Whether the text comes back, however slow the machine is. */
  echoes(text: string): Promise<boolean>;
  /** Whether it does not come back within a second. */
  echoesInVain(text: string): Promise<boolean>;
  end(): void;
}

/** Whether there is no connection within a second. */
export async function connectsInVain(namespace: string, host: string, port: number): Promise<boolean> {
  const client = await connect(namespace, host, port, inVain).catch(() => undefined);
  client?.end();
  return client === undefined;
}

/** @throws Error if there is no connection. */
export async function connect(
  namespace: string,
  host: string,
  port: number,
  ms: number = patience,
): Promise<Client> {
  const client = inside(
    namespace,
    `const socket = require('net').connect(${port}, '${host}');
    socket.on('error', () => {});
    const giveUp = setTimeout(() => process.exit(1), ${ms});
    socket.on('connect', () => { clearTimeout(giveUp); console.log('connected'); });
    let wanted = null, timer;
    socket.on('data', (data) => { if (String(data) === wanted) { clearTimeout(timer); console.log('yes'); } });
    process.stdin.on('data', (data) => {
      const [ms, text] = String(data).split(' ');
      wanted = text;
      timer = setTimeout(() => console.log('no'), Number(ms));
      socket.write(text);
    });`,
  );
  if ((await client.line()) !== 'connected') throw new Error('no connection');
  const within = async (ms: number, text: string) => {
    client.write(`${ms} ${text}`);
    return (await client.line()) === 'yes';
  };
  return {
    echoes: (text) => within(patience, text),
    echoesInVain: async (text) => !(await within(inVain, text)),
    end: client.end,
  };
}
