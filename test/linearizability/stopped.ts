/** Processes that are stopped now: each is woken when this one exits, so that it can end. */
const stopped = new Set<number>();

process.on('exit', () => {
  for (const pid of stopped) signal(pid, 'SIGCONT');
});

/** SIGSTOP. */
export function stopProcess(pid: number): void {
  stopped.add(pid);
  signal(pid, 'SIGSTOP');
}

/** SIGCONT. */
export function wakeProcess(pid: number): void {
  stopped.delete(pid);
  signal(pid, 'SIGCONT');
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended by itself.
  }
}
