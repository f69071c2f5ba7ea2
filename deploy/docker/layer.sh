#!/bin/sh
# layer.sh FROM LIST TO: copies to folder TO the files of folder FROM that LIST does not name, so that an image that
# builds on another adds only what is new. LIST is the output of `find FROM -type f -o -type l`.
set -eu
mkdir -p "$3"
find "$1" -type f -o -type l | sort >/tmp/now
sort "$2" | comm -13 - /tmp/now | tar -c -T - -P | tar -x -P --transform "s|^$1|$3|"
