import { type Logger as PinoLogger, pino } from 'pino';
import { currentTrace } from './trace.ts';

/** The one logger: JSON lines on standard output, each with the instance's name and the request id in force. */
export type Logger = PinoLogger;

export function createLogger(name: string, level: string): Logger {
  return pino({
    name,
    level,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    mixin: () => {
      const trace = currentTrace();
      return trace === undefined ? {} : { req_id: trace.requestId };
    },
  });
}

/** A logger that says nothing, for tests and for libraries that insist on one. */
export function silentLogger(): Logger {
  return pino({ level: 'silent' });
}
