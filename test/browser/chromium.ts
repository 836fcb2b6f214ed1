import { type Browser, chromium } from 'playwright-core';
import { findCommand, isInstalled } from '../../cli/install.ts';

/** Why there is no browser to test with; null when there is one. In CI it must be there. */
export async function withoutChromium(): Promise<string | null> {
  if (process.env.CI || (await isInstalled('browser'))) return null;
  return 'chromium is not installed';
}

/** Debian's chromium, with a profile of its own that is gone when it is closed, and no traffic but the page's. */
export async function launchChromium(): Promise<Browser> {
  const executablePath = findCommand('chromium');
  if (executablePath === undefined) throw new Error('chromium is not installed');
  return chromium.launch({
    executablePath,
    timeout: 120_000,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}
