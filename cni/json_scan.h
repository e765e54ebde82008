/* Finds a few values in the plugin's configuration without making sense of the rest.
 *
 * The agent decodes the configuration and tells what is wrong with it. The shim needs some values before it
 * can ask (where the agent listens, whether there are host ports), so it walks over the text once, allocates
 * nothing, and takes anything odd for "not there": the agent then says why. */
#ifndef ENID_JSON_SCAN_H
#define ENID_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One bit of a word for each open bracket. */
#define JSON_DEPTH 64

/* A value as it stands in the text, quotes and brackets included; `at` is NULL if there is none. */
struct json_span {
	const char *at;
	size_t size;
};

static inline const char *json_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* The byte after the string that begins at `at`, or NULL. */
static inline const char *json_string_end(const char *at, const char *end)
{
	for (at++; at < end; at++) {
		if (*at == '"')
			return at + 1;
		if (*at == '\\' && ++at >= end)
			return NULL;
	}
	return NULL;
}

/* The byte after the number or word that begins at `at`, or NULL. */
static inline const char *json_word_end(const char *at, const char *end)
{
	const char *start = at;

	while (at < end && ((*at >= '0' && *at <= '9') || (*at >= 'a' && *at <= 'z') ||
			    (*at >= 'A' && *at <= 'Z') || *at == '-' || *at == '+' || *at == '.'))
		at++;
	return at > start ? at : NULL;
}

/* The byte after the value that begins at `at`, or NULL if it is cut, its brackets do not match, or it is
 * nested deeper than JSON_DEPTH. Commas and colons are not checked. */
static inline const char *json_value_end(const char *at, const char *end)
{
	uint64_t objects = 0;
	unsigned depth = 0;

	while ((at = json_space(at, end)) < end) {
		switch (*at) {
		case '{':
		case '[':
			if (depth == JSON_DEPTH)
				return NULL;
			objects = objects << 1 | (*at == '{');
			depth++;
			at++;
			break;
		case '}':
		case ']':
			if (!depth || (objects & 1) != (*at == '}'))
				return NULL;
			objects >>= 1;
			depth--;
			at++;
			break;
		case ',':
		case ':':
			if (!depth)
				return NULL;
			at++;
			continue;
		case '"':
			at = json_string_end(at, end);
			break;
		default:
			at = json_word_end(at, end);
		}
		if (!at || !depth)
			return at;
	}
	return NULL;
}

/* Each of `count` members `keys` of the object `object` into `values`; of equal keys the last counts, as in
 * the runtime's decoder. Keys are compared as they stand, which is how encoders write them. False if it is no
 * whole object; what stands before the fault is found all the same, so that the right agent can tell of it.
 */
static inline bool json_members(struct json_span object, const char *const *keys, struct json_span *values,
				size_t count)
{
	const char *at, *end, *key, *value;
	size_t i, size;

	memset(values, 0, count * sizeof *values);
	if (!object.at)
		return false;
	end = object.at + object.size;
	at = json_space(object.at, end);
	if (at == end || *at++ != '{')
		return false;
	at = json_space(at, end);
	while (at < end && *at == '"') {
		key = at + 1;
		if (!(at = json_string_end(at, end)))
			break;
		size = (size_t)(at - key) - 1;
		at = json_space(at, end);
		if (at == end || *at != ':')
			break;
		value = json_space(at + 1, end);
		if (!(at = json_value_end(value, end)))
			break;
		for (i = 0; i < count; i++)
			if (strlen(keys[i]) == size && !memcmp(keys[i], key, size)) {
				values[i].at = value;
				values[i].size = (size_t)(at - value);
			}
		at = json_space(at, end);
		if (at < end && *at == ',') {
			at = json_space(at + 1, end);
			continue;
		}
		if (at < end && *at == '}')
			return true;
		break;
	}
	return at && at < end && *at == '}';
}

/* The text of a string into `out`, terminated. False if it is no string, does not fit, or holds an escape
 * other than of `"`, `\` and `/` or a control character: no path or version needs one. */
static inline bool json_text(struct json_span value, char *out, size_t room)
{
	size_t n = 0, i;

	if (!value.at || value.size < 2 || *value.at != '"' || !room)
		return false;
	for (i = 1; i < value.size - 1; i++) {
		char c = value.at[i];

		if (c == '\\') {
			c = value.at[++i];
			if (c != '"' && c != '\\' && c != '/')
				return false;
		}
		if ((unsigned char)c < ' ' || n + 1 >= room)
			return false;
		out[n++] = c;
	}
	out[n] = 0;
	return true;
}

static inline bool json_is_true(struct json_span value)
{
	return value.at && value.size == 4 && !memcmp(value.at, "true", 4);
}

/* A whole number of at most seven digits, or `otherwise`. */
static inline unsigned json_number(struct json_span value, unsigned otherwise)
{
	unsigned number = 0;
	size_t i;

	if (!value.at || value.size > 7)
		return otherwise;
	for (i = 0; i < value.size; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return otherwise;
		number = number * 10 + (unsigned)(value.at[i] - '0');
	}
	return number;
}

/* Whether it is an array with anything in it. */
static inline bool json_has_elements(struct json_span value)
{
	const char *at, *end;

	if (!value.at || *value.at != '[')
		return false;
	end = value.at + value.size;
	at = json_space(value.at + 1, end);
	return at < end && *at != ']';
}

#endif
