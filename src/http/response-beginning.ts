/**
 * Collects the beginning of a failed response from what is read of it anyway. Pure.
 */
import type { ResponseBeginning } from "../delivery/outcome.ts";

export class CollectedBeginning implements ResponseBeginning {
  body = "";
  isCut = false;
  isEnded = false;

  /** @param keptBytes  of the body */
  constructor(
    readonly head: string,
    private readonly keptBytes: number,
  ) {}

  /** The next piece of the body. */
  add(text: string): void {
    const room = this.keptBytes - this.body.length;
    this.body += text.slice(0, room);
    if (text.length > room) this.isCut = true;
  }

  /** The end of the body was read. */
  end(): void {
    this.isEnded = true;
  }

  /** No more will be read. */
  cut(): void {
    if (!this.isEnded) this.isCut = true;
  }
}
