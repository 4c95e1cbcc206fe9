import type { ServerResponse } from "node:http";

/** Server-sent events as OpenAI writes them. */
export interface EventStream {
  /** Whether the client takes less than it is sent. Nothing more should be sent then until `onDrain`. */
  readonly congested: boolean;
  send(value: object): void;
  /** Writes the end mark. */
  end(): void;
}

/**
 * Begins a stream. A client that takes nothing for `stall` milliseconds is cut off.
 * @param onDrain called when the client has taken what it was sent
 */
export function openEventStream(
  response: ServerResponse,
  { stall, onDrain }: { readonly stall: number; readonly onDrain: () => void },
): EventStream {
  response.writeHead(200, {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
  });
  // On inactivity Node destroys the socket.
  const watch = (milliseconds: number) => response.socket?.setTimeout(milliseconds);
  response.on("drain", () => {
    watch(0);
    onDrain();
  });
  const write = (data: string) => {
    if (response.closed || response.writableEnded) return;
    if (!response.write(`data: ${data}\n\n`)) watch(stall);
  };
  return {
    get congested() {
      return response.writableNeedDrain;
    },
    send: (value) => write(JSON.stringify(value)),
    end() {
      write("[DONE]");
      watch(stall);
      response.end();
    },
  };
}
