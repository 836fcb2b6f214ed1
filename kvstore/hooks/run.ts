import { CongerError, isCongerError, messageOf } from '../../runtime/errors.ts';
import type { HookRequest, NamedHook } from './hook.ts';

/** How long the hooks of one write may take together. */
const defaultLimitMs = 10_000;

/** A hook's error, which goes to the client by the name that the hook gave it. */
export class HookFailed extends CongerError {
  constructor(bucket: string, hook: string, cause: unknown) {
    const given = isObject(cause) && isObject(cause.context) ? cause.context : {};
    const message = isObject(cause) && typeof cause.message === 'string' ? cause.message : messageOf(cause);
    super('HookFailedError', message, { context: { ...given, bucket, hook }, cause });
    this.name = isObject(cause) && typeof cause.name === 'string' && cause.name !== '' ? cause.name : 'Error';
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

/**
 * Runs hooks one after the other, up to the first that fails.
 * @throws HookFailed; HookTimeoutError where they take too long; the CongerError that a hook threw
 */
export async function runHooks(
  hooks: readonly NamedHook[],
  request: HookRequest,
  limitMs = defaultLimitMs,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (const hook of hooks) {
    try {
      await within(Promise.resolve(hook.run(request)), deadline);
    } catch (error) {
      if (error === expired) throw tooSlow(request.bucket, hook.name, limitMs);
      throw isCongerError(error) ? error : new HookFailed(request.bucket, hook.name, error);
    }
  }
}

const expired = new Error('the time is over');

async function within(work: Promise<void>, deadline: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(expired), Math.max(0, deadline - performance.now()));
  });
  try {
    await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

function tooSlow(bucket: string, hook: string, limitMs: number): CongerError {
  return new CongerError(
    'HookTimeoutError',
    `the hook "${hook}" of ${bucket} is not done after ${limitMs} ms`,
    {
      context: { bucket, hook },
    },
  );
}
