// What scripts expect of a JavaScript environment besides the language: TextEncoder, TextDecoder, URL, URLSearchParams.
//
// Evaluated once for each script, before js_runtime.js; console and require stand there, as they call Python. URL knows
// what RFC 3986 says; of the web's own standard only the default ports, the lower case of hosts and "/" as empty path.
(function () {
  'use strict';
  const DEFAULT_PORTS = { 'http:': '80', 'https:': '443', 'ws:': '80', 'wss:': '443', 'ftp:': '21' };
  const PARTS = /^([a-z][a-z0-9+.-]*:)(?:\/\/(?:([^:@\/?#]*)(?::([^@\/?#]*))?@)?(\[[0-9a-f:.]+\]|[^:\/?#\[\]]*)(?::(\d*))?)?([^?#]*)(\?[^#]*)?(#.*)?$/is;

  class TextEncoder {
    get encoding() { return 'utf-8'; }

    encode(text = '') {
      const octets = [];
      for (const character of `${text}`) {
        let code = character.codePointAt(0);
        if (code >= 0xd800 && code <= 0xdfff) code = 0xfffd; // half a character
        if (code < 0x80) octets.push(code);
        else if (code < 0x800) octets.push(0xc0 | (code >> 6), 0x80 | (code & 63));
        else if (code < 0x10000) octets.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
        else octets.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63));
      }
      return Uint8Array.from(octets);
    }
  }

  // Octet that begins a character -> how many follow, the least code of that length, the bits of the first.
  function lead(octet) {
    if (octet >= 0xc2 && octet < 0xe0) return [1, 0x80, octet & 0x1f];
    if (octet >= 0xe0 && octet < 0xf0) return [2, 0x800, octet & 0x0f];
    if (octet >= 0xf0 && octet < 0xf5) return [3, 0x10000, octet & 0x07];
    return null;
  }

  class TextDecoder {
    constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {
      if (!/^(utf-?8|unicode-1-1-utf-8)$/i.test(`${label}`.trim())) throw new RangeError(`unsupported encoding ${label}`);
      this.encoding = 'utf-8';
      this.fatal = fatal;
      this.ignoreBOM = ignoreBOM;
    }

    decode(input = new Uint8Array()) {
      const octets = ArrayBuffer.isView(input)
        ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength) : new Uint8Array(input);
      const characters = [];
      for (let i = 0; i < octets.length;) {
        const first = octets[i++];
        if (first < 0x80) {
          characters.push(String.fromCharCode(first));
          continue;
        }
        const form = lead(first);
        let code = form ? form[2] : 0, n = 0;
        while (form && n < form[0] && (octets[i] & 0xc0) === 0x80) {
          const next = (code << 6) | (octets[i] & 63), left = 6 * (form[0] - n - 1);
          if (n === 0 && ((next + 1) << left) <= form[1]) break; // a longer form than needed
          if (n === 0 && (next << left) > 0x10ffff) break;
          if (n === 0 && form[0] === 2 && next >= 0x360 && next < 0x380) break; // half a character
          code = next;
          i++;
          n++;
        }
        if (form && n === form[0]) characters.push(String.fromCodePoint(code));
        else if (this.fatal) throw new TypeError('The encoded data was not valid UTF-8');
        else characters.push('\ufffd');
      }
      if (characters[0] === '\ufeff' && !this.ignoreBOM) characters.shift();
      return characters.join('');
    }
  }

  const encoded = (text) => encodeURIComponent(text).replace(/[!'()~]|%20/g,
    (c) => (c === '%20' ? '+' : '%' + c.charCodeAt(0).toString(16).toUpperCase()));
  const decoded = (text) => {
    const octets = [];
    text.replace(/\+/g, ' ').replace(/%([0-9a-f]{2})|([^%]+|%)/gi, (_, hex, plain) => {
      if (hex) octets.push(parseInt(hex, 16));
      else octets.push(...new TextEncoder().encode(plain));
    });
    return new TextDecoder().decode(Uint8Array.from(octets));
  };

  class URLSearchParams {
    #pairs = [];
    #changed = () => {};

    constructor(init = '', changed) {
      if (changed) this.#changed = changed;
      if (typeof init === 'object' && init !== null) {
        const pairs = typeof init[Symbol.iterator] === 'function' ? init : Object.entries(init);
        for (const [name, value] of pairs) this.#pairs.push([`${name}`, `${value}`]);
        return;
      }
      for (const part of `${init}`.replace(/^\?/, '').split('&')) {
        if (part === '') continue;
        const at = part.indexOf('=');
        this.#pairs.push(at < 0 ? [decoded(part), ''] : [decoded(part.slice(0, at)), decoded(part.slice(at + 1))]);
      }
    }

    #of(name) { return this.#pairs.filter((pair) => pair[0] === `${name}`).map((pair) => pair[1]); }
    get size() { return this.#pairs.length; }
    get(name) { return this.#of(name)[0] ?? null; }
    getAll(name) { return this.#of(name); }
    has(name) { return this.#of(name).length > 0; }
    append(name, value) { this.#pairs.push([`${name}`, `${value}`]); this.#changed(); }
    delete(name) { this.#pairs = this.#pairs.filter((pair) => pair[0] !== `${name}`); this.#changed(); }
    sort() { this.#pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)); this.#changed(); }

    set(name, value) {
      const first = this.#pairs.find((pair) => pair[0] === `${name}`);
      if (!first) this.#pairs.push([`${name}`, `${value}`]);
      else {
        first[1] = `${value}`;
        this.#pairs = this.#pairs.filter((pair) => pair === first || pair[0] !== first[0]);
      }
      this.#changed();
    }

    forEach(callback, self) { for (const [name, value] of this.#pairs) callback.call(self, value, name, this); }
    * entries() { for (const pair of this.#pairs) yield [...pair]; }
    * keys() { for (const pair of this.#pairs) yield pair[0]; }
    * values() { for (const pair of this.#pairs) yield pair[1]; }
    [Symbol.iterator]() { return this.entries(); }
    toString() { return this.#pairs.map(([name, value]) => `${encoded(name)}=${encoded(value)}`).join('&'); }
  }

  const withoutDots = (path) => {
    const out = [];
    const segments = path.split('/');
    segments.forEach((segment, i) => {
      const last = i === segments.length - 1;
      if (segment === '..') {
        if (out.length > 1) out.pop();
        if (last) out.push('');
      } else if (segment !== '.') out.push(segment);
      else if (last) out.push('');
    });
    return out.join('/');
  };

  function absolute(text, base) { // RFC 3986 section 5.2
    if (/^[a-z][a-z0-9+.-]*:/i.test(text)) return text;
    if (base === undefined) throw new TypeError('Invalid URL');
    const { protocol, host, pathname, search, username, password } = base instanceof URL ? base : new URL(base);
    const credentials = username ? `${username}${password ? `:${password}` : ''}@` : '';
    const [, path, rest] = /^([^?#]*)(.*)$/s.exec(text);
    if (text.startsWith('//')) return protocol + text;
    const front = `${protocol}//${credentials}${host}`;
    if (path.startsWith('/')) return front + path + rest;
    if (path !== '') return front + pathname.replace(/[^/]*$/, '') + path + rest;
    return front + pathname + (rest.startsWith('?') ? rest : search + rest);
  }

  class URL {
    #authority = false;

    constructor(url, base) {
      const match = PARTS.exec(absolute(`${url}`.trim(), base));
      if (!match) throw new TypeError('Invalid URL');
      const [, protocol, username = '', password = '', host, port = '', path, search = '', hash = ''] = match;
      this.protocol = protocol.toLowerCase();
      this.#authority = host !== undefined;
      const special = DEFAULT_PORTS[this.protocol] !== undefined;
      if ((special && !host) || Number(port) > 65535) throw new TypeError('Invalid URL');
      this.username = username;
      this.password = password;
      this.hostname = (host || '').toLowerCase();
      this.port = port === '' || DEFAULT_PORTS[this.protocol] === String(Number(port)) ? '' : String(Number(port));
      const written = path.replace(/ /g, '%20');
      this.pathname = this.#authority ? withoutDots(special && written === '' ? '/' : written) : written;
      this.hash = hash === '#' ? '' : hash;
      this.search = search;
    }

    #search = '';
    get search() { return this.#search; }
    set search(text) {
      const plain = `${text}`.replace(/^\?/, '').replace(/ /g, '%20');
      this.#search = plain === '' ? '' : `?${plain}`;
      const parameters = new URLSearchParams(plain, () => {
        const all = parameters.toString();
        this.#search = all === '' ? '' : `?${all}`;
      });
      Object.defineProperty(this, 'searchParams', { value: parameters, enumerable: true, configurable: true });
    }

    get host() { return this.hostname + (this.port === '' ? '' : `:${this.port}`); }
    get origin() { return DEFAULT_PORTS[this.protocol] ? `${this.protocol}//${this.host}` : 'null'; }

    get href() {
      const credentials = this.username || this.password
        ? `${this.username}${this.password ? `:${this.password}` : ''}@` : '';
      const authority = this.#authority ? `//${credentials}${this.host}` : '';
      return this.protocol + authority + this.pathname + this.search + this.hash;
    }

    toString() { return this.href; }
    toJSON() { return this.href; }

    static canParse(url, base) {
      try {
        return Boolean(new URL(url, base));
      } catch (_) {
        return false;
      }
    }
  }

  for (const value of [TextEncoder, TextDecoder, URL, URLSearchParams]) {
    Object.defineProperty(globalThis, value.name, { value, writable: true, configurable: true });
  }
})()
//# sourceURL=js_library.js
