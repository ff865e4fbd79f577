/* Checks that count, for C and C++. */
#ifndef CHECK_H
#define CHECK_H

#include <maskgit.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures = 0;

/* Says what is wrong and goes on. */
#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failures++;                                                                                          \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                            \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
        }                                                                                                              \
    } while (0)

/* Frees `error` and checks what the call that gave it returned. */
static inline void check_code(maskgit_code got, maskgit_code expected, maskgit_error *error, const char *file,
                              int line) {
    const char *message = error != NULL ? maskgit_error_message(error) : "";
    if (got != expected) {
        check_failures++;
        fprintf(stderr, "%s:%d: %s, expected %s: %s\n", file, line, maskgit_code_name(got), maskgit_code_name(expected),
                message);
    }
    if (error != NULL && (maskgit_error_code(error) != got || message[0] == '\0')) {
        check_failures++;
        fprintf(stderr, "%s:%d: the error object says %s\n", file, line, maskgit_code_name(maskgit_error_code(error)));
    }
    if ((got == MASKGIT_OK) != (error == NULL)) {
        check_failures++;
        fprintf(stderr, "%s:%d: an error object without an error, or none with one\n", file, line);
    }
    maskgit_error_free(error);
}

/* CHECK_CODE(expected, call): the call's last argument is &error. */
#define CHECK_CODE(expected, call)                                                                                     \
    do {                                                                                                               \
        maskgit_error *error = NULL;                                                                                   \
        maskgit_code check_got = (call);                                                                               \
        check_code(check_got, (expected), error, __FILE__, __LINE__);                                                  \
    } while (0)

#define OK(call) CHECK_CODE(MASKGIT_OK, call)

#endif
