/*
 * The load of the benchmark: keep-alive connections of HTTP/1.1 on 127.0.0.1, from one thread with epoll.
 *
 * 1. Closed loop (rate 0): each connection sends its next request when the answer is whole. Latency counts from the
 *    sending.
 * 2. Open loop (rate > 0): request k is due at start + k/rate, whatever became of those before it. Latency counts from
 *    then, also where it had to wait for a free connection: a slow answer delays none that is measured (coordinated
 *    omission). How late the generator itself was, with a connection free, is told as late_p99_us.
 * 3. An answer that is not 2xx, that is cut, or that is not whole GRACE_SECONDS after the end is a failure.
 *
 * Compiled at first use by bench/load.py, which also writes the file of requests: each is a length (uint64, of this
 * machine) and its bytes. They are sent in turn, the one with the number FIRST first. Prints one JSON object.
 *
 * usage: load PORT CONNECTIONS SECONDS RATE REQUESTS FIRST
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define GRACE_SECONDS 10
#define HEAD_BYTES 65536
#define SCRATCH_BYTES 262144
#define MAX_FAILURES 10000

enum state { IDLE, HEAD, COUNTED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct connection {
    int fd;
    enum state state;
    const char *unsent;
    uint64_t unsent_bytes;
    int waits_to_write;
    int64_t began; /* ns: sent at, or due at */
    uint64_t left; /* of a counted body, or of a chunk */
    size_t head_bytes;
    size_t line_bytes; /* of a chunk's size line, or of a trailer line */
    int closes;
    int is_good;
    char head[HEAD_BYTES];
};

struct values {
    int64_t *at;
    size_t count, room;
};

static int port, epoll, timer;
static double rate;
static const char **requests;
static uint64_t *request_bytes;
static size_t request_count, next_request;
static int64_t started, until, ended;
static uint64_t planned, received_bytes;
static int is_behind; /* for want of a free connection */
static long failures;
static struct values latencies, lateness;
static struct connection **idle;
static size_t idle_count;
static long open_requests;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void keep(struct values *values, int64_t value) {
    if (values->count == values->room) {
        values->room = values->room ? 2 * values->room : 65536;
        values->at = realloc(values->at, values->room * sizeof *values->at);
        if (values->at == NULL) fail("memory");
    }
    values->at[values->count++] = value;
}

static int ascending(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static double percentile_us(struct values *values, double share) {
    if (values->count == 0) return 0;
    size_t index = (size_t)(share * (double)(values->count - 1) + 0.5);
    return (double)values->at[index] / 1e3;
}

static void watch(struct connection *connection, int operation, int writes) {
    struct epoll_event event = {.events = EPOLLIN | (writes ? EPOLLOUT : 0), .data.ptr = connection};
    if (epoll_ctl(epoll, operation, connection->fd, &event) < 0) fail("epoll_ctl");
    connection->waits_to_write = writes;
}

static void dial(struct connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    connection->state = IDLE;
    watch(connection, EPOLL_CTL_ADD, 0);
}

static void redial(struct connection *connection) {
    if (connection->state != IDLE) {
        failures++;
        open_requests--;
        if (failures > MAX_FAILURES) fail("too many failures");
    }
    close(connection->fd);
    dial(connection);
}

static void flush(struct connection *connection) {
    while (connection->unsent_bytes) {
        ssize_t sent = send(connection->fd, connection->unsent, connection->unsent_bytes, MSG_NOSIGNAL);
        if (sent < 0) {
            /* A lost connection is told by the next read. */
            if (errno == EAGAIN && !connection->waits_to_write) watch(connection, EPOLL_CTL_MOD, 1);
            return;
        }
        connection->unsent += sent;
        connection->unsent_bytes -= (uint64_t)sent;
    }
    if (connection->waits_to_write) watch(connection, EPOLL_CTL_MOD, 0);
}

static void begin(struct connection *connection, int64_t at) {
    connection->state = HEAD;
    connection->head_bytes = 0;
    connection->began = at;
    connection->unsent = requests[next_request];
    connection->unsent_bytes = request_bytes[next_request];
    next_request = (next_request + 1) % request_count;
    open_requests++;
    flush(connection);
}

static void arm(int64_t at) {
    struct itimerspec when = {.it_value = {at / 1000000000LL, at % 1000000000LL}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Send what is due, as far as connections are free. */
static void send_due(void) {
    while (1) {
        int64_t due = started + (int64_t)((double)planned / rate * 1e9);
        int64_t now = now_ns();
        if (due >= until) return;
        if (due > now) {
            arm(due);
            is_behind = 0;
            return;
        }
        if (idle_count == 0) { /* the next whole answer calls again */
            is_behind = 1;
            return;
        }
        planned++;
        begin(idle[--idle_count], due);
        if (!is_behind) keep(&lateness, now - due);
    }
}

static void next(struct connection *connection) {
    connection->state = IDLE;
    if (rate > 0) {
        idle[idle_count++] = connection;
        send_due();
    } else {
        int64_t now = now_ns();
        if (now < until) begin(connection, now);
    }
}

static void complete(struct connection *connection) {
    ended = now_ns();
    keep(&latencies, ended - connection->began);
    if (!connection->is_good) failures++;
    open_requests--;
    connection->state = IDLE;
    if (connection->closes) redial(connection);
    next(connection);
}

/* Return the value of the field *name* (with its colon) in a head that ends with NUL, or NULL. */
static const char *field(const char *head, const char *name) {
    const char *line = head;
    while ((line = strstr(line, "\r\n")) != NULL) {
        line += 2;
        if (strncasecmp(line, name, strlen(name)) == 0) return line + strlen(name) + strspn(line + strlen(name), " ");
    }
    return NULL;
}

static void read_head(struct connection *connection, size_t end) {
    char *head = connection->head;
    head[end - 1] = 0; /* the last LF of the empty line */
    const char *length = field(head, "content-length:"), *coding = field(head, "transfer-encoding:");
    const char *says = field(head, "connection:");
    connection->is_good = end > 12 && strncmp(head, "HTTP/1.1 2", 10) == 0;
    connection->closes = says != NULL && strncasecmp(says, "close", 5) == 0;
    connection->line_bytes = 0;
    connection->left = 0;
    if (coding != NULL && strncasecmp(coding, "chunked", 7) == 0) {
        connection->state = CHUNK_SIZE;
    } else if (length != NULL) {
        connection->left = strtoull(length, NULL, 10);
        connection->state = COUNTED;
    } else {
        fprintf(stderr, "load: an answer without a length:\n%s\n", head);
        exit(2);
    }
}

/* Read the body in *data*; return whether it is whole. */
static int read_body(struct connection *connection, const char *data, size_t bytes) {
    size_t at = 0;
    received_bytes += bytes;
    while (1) {
        size_t take;
        switch (connection->state) {
        case COUNTED:
            take = bytes - at < connection->left ? bytes - at : connection->left;
            connection->left -= take;
            return connection->left == 0;
        case CHUNK_SIZE:
            if (at == bytes) return 0;
            if (data[at] == '\n') {
                connection->state = connection->left ? CHUNK_DATA : TRAILER;
                connection->line_bytes = 0;
            } else if (data[at] != '\r') {
                char digit = data[at] | 32;
                connection->left = connection->left * 16 + (uint64_t)(digit > '9' ? digit - 'a' + 10 : digit & 15);
            }
            at++;
            break;
        case CHUNK_DATA:
            if (at == bytes) return 0;
            take = bytes - at < connection->left ? bytes - at : connection->left;
            connection->left -= take;
            at += take;
            if (connection->left == 0) connection->state = CHUNK_END;
            break;
        case CHUNK_END:
            if (at == bytes) return 0;
            if (data[at++] == '\n') connection->state = CHUNK_SIZE;
            break;
        case TRAILER:
            if (at == bytes) return 0;
            if (data[at] == '\n') {
                if (connection->line_bytes == 0) return 1;
                connection->line_bytes = 0;
            } else if (data[at] != '\r') {
                connection->line_bytes++;
            }
            at++;
            break;
        default:
            return 0;
        }
    }
}

static void receive(struct connection *connection) {
    static char scratch[SCRATCH_BYTES];
    while (1) {
        if (connection->state == HEAD || connection->state == IDLE) {
            size_t had = connection->head_bytes;
            if (connection->state == IDLE) had = 0;
            ssize_t got = recv(connection->fd, connection->head + had, HEAD_BYTES - 1 - had, 0);
            if (got < 0 && errno == EAGAIN) return;
            if (got <= 0 || connection->state == IDLE) { /* what nobody asked for ends the connection, too */
                int was_open = connection->state != IDLE;
                redial(connection);
                if (was_open) next(connection);
                return;
            }
            connection->head_bytes = had + (size_t)got;
            connection->head[connection->head_bytes] = 0;
            char *end = memmem(connection->head, connection->head_bytes, "\r\n\r\n", 4);
            if (end == NULL) {
                if (connection->head_bytes >= HEAD_BYTES - 1) fail("a head that does not end");
                return;
            }
            size_t head_end = (size_t)(end + 4 - connection->head), total = connection->head_bytes;
            read_head(connection, head_end);
            if (read_body(connection, connection->head + head_end, total - head_end)) complete(connection);
            return; /* epoll tells of more */
        }
        /* A counted body is not looked at, so the system need not copy it (tcp(7): MSG_TRUNC). */
        int is_counted = connection->state == COUNTED;
        ssize_t got = recv(connection->fd, scratch, SCRATCH_BYTES, is_counted ? MSG_TRUNC : 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            redial(connection);
            next(connection);
            return;
        }
        if (read_body(connection, scratch, (size_t)got)) {
            complete(connection);
            return;
        }
        if (got < SCRATCH_BYTES) return;
    }
}

static void load_requests(const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) fail(path);
    const char *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED) fail("mmap");
    for (off_t at = 0; at < status.st_size;) {
        uint64_t bytes;
        memcpy(&bytes, data + at, sizeof bytes);
        requests = realloc(requests, (request_count + 1) * sizeof *requests);
        request_bytes = realloc(request_bytes, (request_count + 1) * sizeof *request_bytes);
        requests[request_count] = data + at + sizeof bytes;
        request_bytes[request_count++] = bytes;
        at += (off_t)(sizeof bytes + bytes);
    }
    if (request_count == 0) fail("no requests");
}

int main(int count, char **words) {
    if (count != 7) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS RATE REQUESTS FIRST\n");
        return 2;
    }
    port = atoi(words[1]);
    size_t connections = (size_t)atoi(words[2]);
    double seconds = atof(words[3]);
    rate = atof(words[4]);
    load_requests(words[5]);
    next_request = (size_t)strtoull(words[6], NULL, 10) % request_count;
    prctl(PR_SET_TIMERSLACK, 1UL);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event ticks = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &ticks);
    idle = calloc(connections, sizeof *idle);
    struct connection **all = calloc(connections, sizeof *all);
    for (size_t i = 0; i < connections; i++) {
        all[i] = calloc(1, sizeof **all);
        dial(all[i]);
    }
    started = now_ns();
    until = started + (int64_t)(seconds * 1e9);
    int64_t give_up = until + GRACE_SECONDS * 1000000000LL;
    ended = started;
    if (rate > 0) {
        for (size_t i = 0; i < connections; i++) idle[idle_count++] = all[i];
        send_due();
    } else {
        for (size_t i = 0; i < connections; i++) begin(all[i], now_ns());
    }
    while (now_ns() < give_up && (open_requests || now_ns() < until)) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection == NULL) {
                uint64_t times;
                if (read(timer, &times, sizeof times) > 0) send_due();
                continue;
            }
            if (events[i].events & EPOLLOUT) flush(connection);
            if (events[i].events & ~(uint32_t)EPOLLOUT) receive(connection);
        }
    }
    failures += open_requests;
    qsort(latencies.at, latencies.count, sizeof *latencies.at, ascending);
    qsort(lateness.at, lateness.count, sizeof *lateness.at, ascending);
    printf("{\"requests\": %zu, \"seconds\": %.6f, \"failures\": %ld, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f, \"late_p99_us\": %.1f, \"received_bytes\": %llu}\n",
           latencies.count, (double)(ended - started) / 1e9, failures, percentile_us(&latencies, 0.5),
           percentile_us(&latencies, 0.99), percentile_us(&latencies, 1.0), percentile_us(&lateness, 0.99),
           (unsigned long long)received_bytes);
    return 0;
}
