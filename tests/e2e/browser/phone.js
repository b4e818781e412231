// A web phone on JsSIP, for tests/e2e/test_browsers.py: what happens is kept in lists, so that a test can wait for it.

"use strict";

const phone = {
  log: [], // events of the phone and of its call, in order
  descriptions: [], // {originator, type, sdp} of the call, as they have left and as they have come
  causes: [], // why calls have failed or ended: {event, originator, cause, status}
  waiting: [],

  note(event) {
    this.log.push(event);
    this.waiting = this.waiting.filter((look) => !look());
  },

  // Wait for an event that has not been waited for yet; one of the log that is there already counts.
  until(event, seconds = 15) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const at = this.log.indexOf(event);
        if (at < 0) return false;
        clearTimeout(timer);
        this.log.splice(0, at + 1);
        resolve(event);
        return true;
      };
      const timer = setTimeout(
        () => reject(new Error(`no ${event} in ${seconds} s, but ${JSON.stringify(this.log)} ${JSON.stringify(this.causes)}`)),
        seconds * 1000,
      );
      if (!look()) this.waiting.push(look);
    });
  },

  start(url, user, domain, password) {
    const socket = new JsSIP.WebSocketInterface(url);
    const account = { uri: `sip:${user}@${domain}`, password, session_timers: false };
    const patience = { connection_recovery_min_interval: 1, connection_recovery_max_interval: 1 };
    this.ua = new JsSIP.UA({ ...account, ...patience, sockets: [socket] });
    for (const event of ["connected", "disconnected", "registered", "unregistered", "registrationFailed"]) {
      this.ua.on(event, () => this.note(event));
    }
    this.ua.on("newRTCSession", ({ session, originator }) => this.take(session, originator));
    this.ua.start();
  },

  take(session, originator) {
    this.session = session;
    this.descriptions = [];
    this.causes = [];
    session.on("sdp", ({ originator, type, sdp }) => this.descriptions.push({ originator, type, sdp }));
    for (const event of ["progress", "confirmed", "hold", "unhold", "ended", "failed"]) {
      session.on(event, (data) => {
        if (data.cause) {
          const status = data.message && data.message.status_code;
          this.causes.push({ event, originator: data.originator, cause: data.cause, status: status || null });
        }
        this.note(event);
      });
    }
    if (originator === "remote") {
      this.note("ringing");
      if (this.answers) session.answer({ mediaConstraints: { audio: true, video: false } });
    }
  },

  call(target) {
    this.ua.call(target, { mediaConstraints: { audio: true, video: false } });
  },

  // Offer again, to hold or unhold the call, and wait for the answer.
  async reoffer(how, seconds = 10) {
    for (let n = 0; n < seconds * 20; n++) {
      let begun;
      const answered = new Promise((resolve) => {
        begun = this.session[how]({}, () => resolve(true));
      });
      if (begun) return answered; // else the last offer, of either side, is not over yet
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`no ${how}`);
  },

  // Wait until media packets have come in; say how many.
  async media(seconds = 10) {
    for (let n = 0; n < seconds * 20; n++) {
      for (const one of (await this.session.connection.getStats()).values()) {
        if (one.type === "inbound-rtp" && one.packetsReceived > 0) return one.packetsReceived;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`no media, ICE is ${this.session.connection.iceConnectionState}`);
  },
};
