import { z } from 'zod';

/** What instances ask each other. Answers are a hint: who does not answer is taken for gone, and puts it right. */

const timeoutMs = 2_000;

const pingSchema = z.looseObject({ member: z.string() });
export const heardSchema = z.object({ member: z.string(), heard: z.boolean() });

/** Who answers now. */
export async function livingMembers(urls: readonly string[]): Promise<Set<string>> {
  const answers = await askAll(urls, '/ping', pingSchema);
  return new Set(answers.map(({ member }) => member));
}

/** Whether any instance but `self` has heard the server of late. */
export async function heardByOthers(urls: readonly string[], self: string, server: string): Promise<boolean> {
  const answers = await askAll(urls, `/servers/${server}/heard`, heardSchema);
  return answers.some(({ member, heard }) => member !== self && heard);
}

async function askAll<T>(urls: readonly string[], path: string, schema: z.ZodType<T>): Promise<T[]> {
  const answers = await Promise.all(
    urls.map(async (url) => {
      try {
        const answer = await fetch(`${url}${path}`, { signal: AbortSignal.timeout(timeoutMs) });
        return [schema.parse(await answer.json())];
      } catch {
        return [];
      }
    }),
  );
  return answers.flat();
}
