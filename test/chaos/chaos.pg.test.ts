import { shortForm } from './short-form.ts';

shortForm('embedded', true);
