import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot } from '../../../runtime/root.ts';
import type { ServiceContext } from '../../common/service.ts';

const files = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/app.js': ['app.js', 'text/javascript; charset=utf-8'],
  '/tables.js': ['tables.js', 'text/javascript; charset=utf-8'],
  '/style.css': ['style.css', 'text/css; charset=utf-8'],
  '/icon.svg': ['icon.svg', 'image/svg+xml'],
} as const;

const headers = {
  'cache-control': 'no-cache',
  'content-security-policy':
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
} as const;

/** The page itself: a few files, read once, with nothing from any other host. */
export async function pageRoutes({ app }: ServiceContext): Promise<void> {
  for (const [path, [name, type]] of Object.entries(files)) {
    const content = await readFile(join(projectRoot(), 'services/adminui/public', name));
    app.get(path, { schema: { hide: true } }, async (_request, reply) => {
      void reply.type(type).headers(headers);
      return content;
    });
  }
}
