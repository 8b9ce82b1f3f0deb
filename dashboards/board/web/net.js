// Asking the page's own host, within bounds: time, length and how many at once.

// A Problem is an error in words that follow the name of who was asked.
class Problem extends Error {}

const timeout = 10_000, longest = 8 << 20, atOnce = 4;

let asking = 0;
const waiting = [];
const turn = async run => {
  if (asking >= atOnce) await new Promise(go => waiting.push(go));
  asking++;
  try {
    return await run();
  } finally {
    asking--;
    waiting.shift()?.();
  }
};

const firstLine = text => {
  const t = text.trim();
  try {
    const o = JSON.parse(t);
    if (typeof (o.error ?? o) === "string") return clip(o.error ?? o, 200);
  } catch {}
  return clip(t.split("\n")[0], 200);
};

// chunks reads a body and gives up beyond most bytes.
const body = async (response, most) => {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let text = "", bytes = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return text + decoder.decode();
    bytes += value.length;
    if (bytes > most) {
      reader.cancel();
      throw new Problem(`answers with more than ${quantity(most, "bytes")}`);
    }
    text += decoder.decode(value, {stream: true});
  }
};

// barred goes where one signs in, if it was our own server that wants a token.
const barred = response => {
  if (response.status !== 401 || !/realm="darklaunch"/.test(response.headers.get("WWW-Authenticate") ?? "")) return;
  location.replace("darklaunch/sign-in?" + new URLSearchParams({view: location.search.slice(1)}));
};

// ask returns the JSON that url answers with.
const ask = async (url, init = {}) => {
  const signal = AbortSignal.timeout(timeout);
  try {
    const response = await fetch(url, {cache: "no-store", redirect: "error", ...init, signal});
    barred(response);
    const text = await body(response, longest);
    if (!response.ok) throw new Problem(`answers ${response.status}${text.trim() ? ": " + firstLine(text) : ""}`);
    try {
      return JSON.parse(text);
    } catch {
      throw new Problem("answers with what is no JSON");
    }
  } catch (e) {
    if (e instanceof Problem) throw e;
    throw new Problem(signal.aborted ? `does not answer within ${length(timeout / 1000)}` : "can’t be reached");
  }
};

// change asks for what changes something.
const change = (method, url, value) => ask(url, {method, headers: {"Content-Type": "application/json"}, body: JSON.stringify(value ?? {})});

const pause = ms => new Promise(go => setTimeout(go, ms));

// follow reads server-sent events for as long as the page is there, and connects
// again when a stream ends. It reads them itself: an EventSource tells neither a
// heartbeat nor why it failed, and has no bound. event gets each event's data,
// broken a Problem when a stream is over.
const quietest = 45_000, longestEvent = 1 << 20;
const follow = async (url, event, broken) => {
  for (let tries = 0; ; tries++) {
    const stop = new AbortController();
    let quiet, silent = false;
    const alive = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => { silent = true; stop.abort(); }, quietest);
    };
    try {
      alive();
      const response = await fetch(url, {cache: "no-store", redirect: "error", headers: {Accept: "text/event-stream"}, signal: stop.signal});
      if (!response.ok) {
        barred(response);
        const text = await body(response, 64 << 10);
        throw new Problem(`answers ${response.status}${text.trim() ? ": " + firstLine(text) : ""}`);
      }
      if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) throw new Problem("answers with what is no stream of events");
      const reader = response.body.getReader(), decoder = new TextDecoder();
      let rest = "";
      for (;;) {
        const {done, value} = await reader.read();
        if (done) throw new Problem("has ended the stream");
        alive();
        rest += decoder.decode(value, {stream: true});
        const events = rest.split(/\r?\n\r?\n/);
        rest = events.pop();
        if (rest.length > longestEvent) throw new Problem(`sends an event of more than ${quantity(longestEvent, "bytes")}`);
        for (const text of events) {
          const data = text.split(/\r?\n/).filter(line => line.startsWith("data:")).map(line => line.slice(5).trimStart()).join("\n");
          if (data === "") continue;
          tries = 0;
          event(data);
        }
      }
    } catch (e) {
      broken(e instanceof Problem ? e : new Problem(silent ? `has been silent for ${length(quietest / 1000)}` : "can’t be reached"));
    } finally {
      clearTimeout(quiet);
      stop.abort();
    }
    await pause(Math.min(15_000, 1000 * 2 ** Math.min(tries, 4)));
  }
};
