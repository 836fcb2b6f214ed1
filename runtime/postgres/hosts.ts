/**
 * The URLs in CONGER_POSTGRES, one a host. Only a comma that another URL follows separates two.
 * @throws Error where one of them is no URL of PostgreSQL
 */
export function hostsOf(list: string): readonly string[] {
  const urls = list
    .split(/,(?=\s*postgres(?:ql)?:)/)
    .map((url) => url.trim())
    .filter(Boolean);
  for (const url of urls) {
    const scheme = URL.canParse(url) ? new URL(url).protocol : undefined;
    if (scheme !== 'postgresql:' && scheme !== 'postgres:') {
      throw new Error(
        'PostgreSQL: expected postgresql://user@host:port/database, or several, comma-separated',
      );
    }
  }
  if (urls.length === 0) throw new Error('PostgreSQL: no host is given');
  return urls;
}

/** A host as logs may show it: without user and password. */
export function hostName(url: string): string {
  return URL.canParse(url) ? new URL(url).host : '?';
}
