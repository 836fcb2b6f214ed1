#!/usr/bin/env node
import { messageOf } from '../runtime/errors.ts';
import { type Command, UsageError } from './commands/command.ts';

interface Entry {
  readonly summary: string;
  readonly load: () => Promise<Command>;
}

/** Every subcommand; each is loaded only when it is called. */
const commands: Readonly<Record<string, Entry>> = {
  up: {
    summary: 'bring a datacenter up, in the foreground',
    load: async () => (await import('./commands/up.ts')).up,
  },
  status: {
    summary: 'show which parts of a datacenter answer',
    load: async () => (await import('./commands/status.ts')).status,
  },
  feed: {
    summary: 'follow the changes of a resource',
    load: async () => (await import('./commands/feed.ts')).feed,
  },
  poison: {
    summary: 'list, show, replay and drop changes that a consumer could not apply',
    load: async () => (await import('./commands/poison.ts')).poison,
  },
};

function overview(): string {
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(10)} ${summary}`);
  return `Usage: conger <command> [options]\n\nCommands:\n${lines.join('\n')}\n\n\`conger <command> --help\` tells more.\n`;
}

/** parseArgs names its errors by code. */
function isUsage(error: unknown): boolean {
  if (error instanceof UsageError) return true;
  return error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS');
}

async function main([name, ...args]: string[]): Promise<number> {
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(overview());
    return name === undefined ? 2 : 0;
  }
  const entry = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (entry === undefined) {
    process.stderr.write(`conger: there is no command ${name}\n\n${overview()}`);
    return 2;
  }
  const command = await entry.load();
  if (args.includes('--help') || args.includes('-h')) {
    process.stdout.write(command.help);
    return 0;
  }
  try {
    return await command.run(args);
  } catch (error) {
    process.stderr.write(`conger ${name}: ${messageOf(error)}\n`);
    if (isUsage(error)) process.stderr.write(`\`conger ${name} --help\` tells how it is used\n`);
    return isUsage(error) ? 2 : 1;
  }
}

// A reader that went away (`conger up | head`) must not end a datacenter.
process.stdout.on('error', () => {});
process.exitCode = await main(process.argv.slice(2));
