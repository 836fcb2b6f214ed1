import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { projectRoot } from '../../../runtime/root.ts';
import type { ServiceContext } from '../../common/service.ts';

const files = {
  '/': ['index.html', 'text/html; charset=utf-8'],
  '/app.js': ['app.js', 'text/javascript; charset=utf-8'],
  '/style.css': ['style.css', 'text/css; charset=utf-8'],
} as const;

/** The page itself: three files, read once, with nothing from any other host. */
export async function pageRoutes({ app }: ServiceContext): Promise<void> {
  for (const [path, [name, type]] of Object.entries(files)) {
    const content = await readFile(join(projectRoot(), 'services/adminui/public', name));
    app.get(path, { schema: { hide: true } }, async (_request, reply) => {
      void reply
        .type(type)
        .header('content-security-policy', "default-src 'self'")
        .header('cache-control', 'no-cache');
      return content;
    });
  }
}
