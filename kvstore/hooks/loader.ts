import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { messageOf } from '../../runtime/errors.ts';
import { type Hook, identifier } from './hook.ts';

const hookModule = z.looseObject({
  hooks: z.record(
    z.string().regex(identifier, 'a hook’s name is that of a function'),
    z.custom<Hook>((v) => typeof v === 'function', 'should be a function'),
  ),
});

/**
 * Loads the modules at `paths`: ES modules that export `hooks`, an object of functions by name.
 * @throws Error naming the module that cannot be loaded, exports something else, or has a name that an earlier one has
 */
export async function loadHooks(paths: readonly string[]): Promise<ReadonlyMap<string, Hook>> {
  const hooks = new Map<string, Hook>();
  for (const path of paths) {
    const loaded = await load(path);
    for (const [name, hook] of Object.entries(loaded)) {
      if (hooks.has(name)) throw new Error(`hooks of ${path}: there is a hook "${name}" already`);
      hooks.set(name, hook);
    }
  }
  return hooks;
}

async function load(path: string): Promise<Readonly<Record<string, Hook>>> {
  let loaded: unknown;
  try {
    loaded = await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    throw new Error(`hooks of ${path}: ${messageOf(error)}`, { cause: error });
  }
  // A module's namespace is no plain object.
  const parsed = hookModule.safeParse({ ...(loaded as object) });
  if (parsed.success) return parsed.data.hooks;
  const [issue] = parsed.error.issues;
  throw new Error(`hooks of ${path}: ${issue?.path.join('.')}: ${issue?.message}`);
}
