/** A mistake in what the user gave (a file, an option, a config). The command line prints its message alone and exits with 2. */
export class InputError extends Error {
  override readonly name = "InputError";
}
