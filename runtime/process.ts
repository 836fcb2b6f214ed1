import { type Config, loadConfig } from './config.ts';
import { messageOf } from './errors.ts';
import { armFailpoints } from './failpoints.ts';
import { createLogger, type Logger } from './log.ts';
import { Shutdown } from './shutdown.ts';

/** What every process of Conger is given. */
export interface Runtime {
  readonly config: Config;
  readonly log: Logger;
  readonly shutdown: Shutdown;
}

/** What a process tells the one that started it, once it serves. */
export interface Ready {
  /** Addresses that it serves on, for example `http://127.0.0.1:8080`. */
  readonly urls: readonly string[];
}

/**
 * The frame of every process: configuration, logger and shutdown are made, `start` brings the process up and its
 * answer is told to the parent (the message `{ready: {urls}}`). A fault that nobody caught ends the process: whoever
 * started it starts it again, and a process that carries on in an unknown state is worse than none.
 */
export async function runProcess(name: string, start: (runtime: Runtime) => Promise<Ready>): Promise<void> {
  const config = loadConfig();
  armFailpoints(config.failpoints, config.failpointsTrace);
  const log = createLogger(config.instance || name, config.logLevel);
  const shutdown = new Shutdown(log);
  const die = (why: string) => (error: unknown) => {
    log.fatal({ err: error }, `${why}: ${messageOf(error)}`);
    process.exit(70);
  };
  process.on('uncaughtException', die('uncaught exception'));
  process.on('unhandledRejection', die('unhandled rejection'));
  shutdown.onSignals();
  try {
    const ready = await start({ config, log, shutdown });
    log.info({ urls: ready.urls }, 'ready');
    process.send?.({ ready });
  } catch (error) {
    die('cannot start')(error);
  }
}
